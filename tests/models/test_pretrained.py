"""Pretrained models: they come back as they were saved, with their objective, and every failure names its remedy."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from gdrop_viz.models.hub import explained_failures, quiet_datasets, quiet_libraries
from gdrop_viz.models.objectives import objective_of
from gdrop_viz.models.pretrained import Pretrained, load_pretrained
from tests.conftest import random_bert, word_tokenizer


@pytest.fixture
def saved(tiny_lm, tmp_path):
    return tiny_lm.save(tmp_path / "mine")


def test_a_saved_model_comes_back_the_same_and_in_eval_mode(tiny_lm, saved):
    lm = load_pretrained(saved)
    assert (lm.objective, lm.name, lm.n_parameters) == ("mlm", "mine", tiny_lm.n_parameters)
    assert not any(module.training for module in lm.model.modules())
    batch = tiny_lm.tokenizer("the cat sees a bird", return_tensors="pt")
    assert lm.tokenizer("the cat sees a bird")["input_ids"] == batch["input_ids"][0].tolist()
    assert torch.equal(lm.model(**batch).logits, tiny_lm.model(**batch).logits)


def test_bundled_names_come_first(tiny_lm, tmp_path, monkeypatch):
    tiny_lm.save(tmp_path / "models" / "bert-mini")
    monkeypatch.setattr("gdrop_viz.models.pretrained.data_folder", lambda: tmp_path)
    monkeypatch.setattr("gdrop_viz.models.pretrained.bundled_models", lambda: ["bert-mini"])
    assert load_pretrained("bert-mini").n_parameters == tiny_lm.n_parameters
    assert load_pretrained("bert-mini").name == "bert-mini"


def test_dtype(saved):
    assert load_pretrained(saved, dtype=torch.float64).model.dtype == torch.float64


def test_loading_is_silent_and_leaves_logging_and_random_numbers_alone(saved, capfd, recwarn, caplog):
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_info()
    before = torch.get_rng_state(), transformers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    try:
        load_pretrained(saved)
        assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not recwarn.list
    assert torch.equal(torch.get_rng_state(), before[0])
    assert transformers_logging.is_progress_bar_enabled() == before[1]


@pytest.mark.parametrize("quiet", [quiet_libraries, quiet_datasets])
def test_quiet_is_over_after_an_interrupt(quiet):
    from datasets.utils import are_progress_bars_disabled

    names = ("transformers", "datasets", "huggingface_hub")
    before = [logging.getLogger(name).level for name in names], are_progress_bars_disabled()
    with pytest.raises(KeyboardInterrupt), quiet():
        raise KeyboardInterrupt
    assert ([logging.getLogger(name).level for name in names], are_progress_bars_disabled()) == before


# -- objectives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "architecture", "objective"),
    [
        ("BertConfig", "BertForMaskedLM", "mlm"),
        ("BertConfig", "BertForPreTraining", "mlm"),
        ("BertConfig", "BertModel", "mlm"),
        ("BertConfig", None, "mlm"),
        ("BertConfig", "BertLMHeadModel", "clm"),
        ("RobertaConfig", "RobertaForMaskedLM", "mlm"),
        ("AlbertConfig", "AlbertForPreTraining", "mlm"),
        ("ElectraConfig", "ElectraForPreTraining", "mlm"),
        ("GPT2Config", "GPT2LMHeadModel", "clm"),
        ("GPT2Config", None, "clm"),
        ("LlamaConfig", "LlamaForCausalLM", "clm"),
        ("T5Config", "T5ForConditionalGeneration", "span"),
        ("T5Config", "T5WithLMHeadModel", "span"),
        ("T5Config", None, "span"),
        ("BartConfig", "BartModel", "span"),
    ],
)
def test_the_config_tells_the_objective(config, architecture, objective):
    import transformers

    architectures = None if architecture is None else [architecture]
    assert objective_of(getattr(transformers, config)(architectures=architectures)) == objective


def test_a_config_of_no_language_model():
    from transformers import ViTConfig

    with pytest.raises(ValueError, match="pass objective="):
        objective_of(ViTConfig())


def test_a_wrong_objective(saved, tiny_bert):
    for call in (lambda: load_pretrained(saved, objective="rtd"), lambda: Pretrained(tiny_bert, None, "rtd")):
        with pytest.raises(ValueError, match="expected objective to be one of 'mlm', 'clm', 'span', got 'rtd'"):
            call()
    with pytest.raises(ValueError, match="'span' does not fit the model type 'bert'"):
        load_pretrained(saved, objective="span")
    # transformers would load it with no more than a warning, and every token would see its label
    with pytest.raises(ValueError, match="attention reads both ways"):
        load_pretrained(saved, objective="clm")


def test_a_bert_decoder_is_causal(tmp_path):
    from transformers import BertLMHeadModel

    model = BertLMHeadModel(random_bert(is_decoder=True).config)
    Pretrained(model, word_tokenizer(), objective="clm").save(tmp_path)
    assert load_pretrained(tmp_path).objective == "clm"


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "~/nowhere", ""])
def test_a_folder_that_is_not_there_names_the_bundled_models(name, monkeypatch):
    monkeypatch.setattr("gdrop_viz.models.pretrained.bundled_models", lambda: ["bert-mini", "t5-mini"])
    with pytest.raises(FileNotFoundError, match=r"does not exist.*bert-mini, t5-mini"):
        load_pretrained(name)


def test_a_name_that_is_not_cached_offline(monkeypatch):
    monkeypatch.setattr("gdrop_viz.models.pretrained.bundled_models", lambda: ["bert-mini"])
    with pytest.raises(RuntimeError, match=r"'bert-base-uncased' is not in the local cache.*bert-mini") as caught:
        load_pretrained("bert-base-uncased")
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_str():
    with pytest.raises(TypeError, match="got int"):
        load_pretrained(3)


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_pretrained(tmp_path)


def test_a_checkpoint_without_its_head(tiny_bert, tmp_path):
    tiny_bert.bert.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="loss would be that of random weights"):
        load_pretrained(tmp_path)


def test_a_checkpoint_without_tokenizer(tiny_bert, tmp_path):
    tiny_bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer files"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "not json"])
def test_damaged_files(saved, damage):
    (saved / "checksums.json").unlink()  # as transformers saves, without ours
    if damage == "truncated":
        weights = saved / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        (saved / "config.json").write_text("{")
    with pytest.raises(RuntimeError, match="damaged" if damage == "truncated" else "not a valid JSON") as caught:
        load_pretrained(saved)
    assert "\n" not in str(caught.value)


def test_code_of_a_repository_does_not_run_unless_asked(saved, tmp_path):
    (saved / "checksums.json").unlink()
    marker = tmp_path / "it ran"
    (saved / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass C: pass\n")
    config = json.loads((saved / "config.json").read_text())
    config.update(model_type="new-kind", auto_map={"AutoConfig": "code.C", "AutoModelForMaskedLM": "code.C"})
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_pretrained(saved)
    assert not marker.exists()


def hub_error(name):
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(403, request=httpx.Request("GET", "http://hub/x"))
    return getattr(errors, name)("private or gated repo?\nsecond line", response=response)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: hub_error("GatedRepoError"), RuntimeError, r"is gated: ask for access .* `hf auth login`.*take X"),
        (lambda: hub_error("RepositoryNotFoundError"), FileNotFoundError, r"no model 'a/b' was found.*take X"),
        (lambda: hub_error("RevisionNotFoundError"), ValueError, r"has no revision 'v1'"),
        (lambda: hub_error("HfHubHTTPError"), RuntimeError, r"could not be loaded: .*take X"),
        (lambda: ConnectionError("reset"), RuntimeError, r"could not be reached: check the network.*take X"),
        (lambda: OSError("Consistency check failed: 3 != 4"), RuntimeError, r"cut off or damaged .* download it again"),
    ],
)
def test_failures_of_the_hub_are_one_line_with_the_remedy(make, kind, message, wrapped):
    def fail():
        with explained_failures("model", "a/b", revision="v1", instead="take X"):
            if wrapped:  # as transformers does
                raise OSError("could not load\nthe file") from make()
            raise make()

    with pytest.raises(kind, match=message) as caught:
        fail()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_mistakes_in_code_are_not_explained_away():
    with pytest.raises(KeyError), explained_failures("model", "a/b"):
        raise KeyError("x")


class Mute(torch.nn.Module):
    """A model that cannot save itself."""


@pytest.mark.parametrize("part", ["tokenizer", "model"])
def test_what_cannot_be_saved_whole_is_not_saved_half(tiny_lm, tmp_path, part):
    lm = Pretrained(tiny_lm.model, None) if part == "tokenizer" else Pretrained(Mute(), tiny_lm.tokenizer)
    with pytest.raises(TypeError, match=f"expected a {part} with save_pretrained"):
        lm.save(tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_html_escapes(tiny_bert):
    lm = Pretrained(tiny_bert, None, name="<script>")
    assert "<script>" not in lm._repr_html_()
    assert "masked language modelling" in lm._repr_html_()
    assert f"{lm.n_parameters:,}" in repr(lm)
    with pytest.raises(TypeError, match="expected model as a Module"):
        Pretrained("bert", None)
