"""Pretrained language models: loading, the hub, bundled ones, anatomy, the loss of each sequence."""
