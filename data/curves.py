"""The pretraining of the bundled models in curves: draws `data/curves.png` from their logs.

python data/curves.py
"""

from __future__ import annotations

import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from build_corpus import ROOT
from recipes import MIXTURE

UNITS = {"bert-mini": "masked tokens (15 %)", "gpt2-mini": "next tokens", "t5-mini": "spans and sentinels"}
# the baselines are those of text; t5-mini's curve counts the sentinels too, which are easy
TEXT_ONLY = {"bert-mini", "gpt2-mini"}


def main() -> None:
    """Draw one panel per model: held-out and training loss against tokens seen, with the models without context."""
    folders = [
        folder for folder in sorted((ROOT / "data" / "models").iterdir()) if (folder / "training.json").is_file()
    ]
    sns.set_theme(style="whitegrid", palette="colorblind", font_scale=0.85)
    figure, panels = plt.subplots(1, len(folders), figsize=(4.6 * len(folders), 3.8), squeeze=False)
    for folder, ax in zip(folders, panels[0], strict=True):
        facts = json.loads((folder / "training.json").read_text())
        held_out = json.loads((folder / "held_out.json").read_text())["sources"]
        curve = pd.DataFrame(facts["curve"])
        curve["tokens"] /= 1e6
        sns.lineplot(curve, x="tokens", y="training", ax=ax, label="training", linestyle="--")
        sns.lineplot(curve, x="tokens", y="held_out", ax=ax, label="held out")
        for baseline, style in (("unigram", ":"), ("bigram", "-.")) if facts["name"] in TEXT_ONLY else ():
            # the four sources weigh alike in the held-out curve, so they do here
            level = sum(held_out[source][baseline] for source in MIXTURE) / len(MIXTURE)
            ax.axhline(level, color="0.35", linestyle=style, linewidth=1.2, label=f"{baseline} model, held out")
        ax.axvline(facts["tokens"] / 1e6, color="0.75", linewidth=0.8)
        ax.set(
            title=f"{facts['name']}: {facts['tokens'] / 1e6:.1f}M tokens in {facts['minutes']:.0f} min",
            xlabel="tokens seen (millions)",
            ylabel=f"nats per token, {UNITS[facts['name']]}",
        )
        ax.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(ROOT / "data" / "curves.png", dpi=130)


if __name__ == "__main__":
    main()
