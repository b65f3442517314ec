"""The loss of many kinds of models, against the model's own and against each row alone: right, or refused in a line."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import gdrop_viz as gv
from gdrop_viz.models.facts import facts_of
from gdrop_viz.models.losses import checked_batches, is_causal, loss_unit
from tests.zoo import build, configuration

LENGTHS, WORDS = (12, 7, 9), 60
SMALL = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=72, pad_token_id=0,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
BERT = dict(SMALL, max_position_embeddings=32)
GPT2 = dict(
    vocab_size=72, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2
)
BART = dict(
    vocab_size=72, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=20, max_position_embeddings=32, decoder_start_token_id=2, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, forced_eos_token_id=None,
)  # fmt: skip
T5 = dict(vocab_size=72, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2, pad_token_id=0)


def make(kind: str, config: str, settings: dict, **changes) -> nn.Module:
    """A random model; its norms and biases are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(getattr(transformers, config)(**{**settings, **changes})).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() <= 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def words(side: str = "right") -> dict[str, torch.Tensor]:
    """Three sequences of different length, padded on one side; every token is labelled by itself."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(max(LENGTHS) - length, None)
        ids[row, place] = torch.randint(3, WORDS, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def alone(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One sequence without its padding."""
    kept = batch["attention_mask"][row].bool()
    shape = batch["attention_mask"].shape
    per_token = {k for k, v in batch.items() if v.shape == shape and not v.is_floating_point()}
    return {k: v[row : row + 1, kept] if k in per_token else v[row : row + 1] for k, v in batch.items()}


def assert_own(model, batch, *, own: bool = True, **settings) -> torch.Tensor:
    """Each loss is the model's own of that sequence alone, where it has one that means the same."""
    (batch,) = checked_batches(model, [batch], **settings)
    losses = gv.sequence_losses(model, batch)
    for row, loss in enumerate(losses):
        one = alone(batch, row)
        torch.testing.assert_close(gv.sequence_losses(model, one)[0], loss, rtol=1e-5, atol=1e-6)
        if own:
            torch.testing.assert_close(model(**one).loss, loss, rtol=1e-5, atol=1e-6)
    return losses


def assert_refused(model, batch, match: str, **settings) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        checked_batches(model, [batch], **settings)
    assert "\n" not in str(caught.value)


# -- who shifts labels -------------------------------------------------------------------------------------------------


class Mine(transformers.GPT2LMHeadModel):
    """A causal model whose name says nothing."""


class AlsoMine(transformers.LlamaForCausalLM):
    """Another one."""


def mine() -> nn.Module:
    model = Mine(transformers.GPT2Config(**GPT2)).eval()
    model.load_state_dict(make("GPT2LMHeadModel", "GPT2Config", GPT2).state_dict())
    return model


def lora(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)
    return get_peft_model(model, settings).eval()


@pytest.fixture
def one_process():
    """A process group of one, as DistributedDataParallel wants it."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m,
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lora,
        lambda m: torch.compile(nn.DataParallel(lora(m)), backend="eager"),
    ],
    ids=["subclass", "DataParallel", "DDP", "compile", "LoRA", "all"],
)
@pytest.mark.usefixtures("one_process")
def test_a_causal_model_is_known_in_any_clothes(wrap):
    plain = make("GPT2LMHeadModel", "GPT2Config", GPT2)
    expected = assert_own(plain, words())
    torch.testing.assert_close(assert_own(wrap(mine()), words(), own=False), expected)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: AlsoMine(transformers.LlamaConfig(**BERT)).eval(),
        lambda: make("BertGenerationDecoder", "BertGenerationConfig", BERT, is_decoder=True),
        lambda: make("BertLMHeadModel", "BertConfig", BERT, is_decoder=True),
        lambda: make("CTRLLMHeadModel", "CTRLConfig", GPT2, dff=24),
    ],
)
def test_causal_models_of_other_names(make_model):
    model = make_model()
    assert is_causal(model)
    assert_own(model, words())


def gemma(version: int) -> nn.Module:
    text = dict(BERT, head_dim=8, num_key_value_heads=1)
    vision = dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    tokens = dict(image_token_index=WORDS + 1, boi_token_index=WORDS + 2, eoi_token_index=WORDS + 3)
    if version == 3:
        config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
        return transformers.Gemma3ForConditionalGeneration(config).eval()
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**BERT),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=WORDS + 1,
    )
    return transformers.LlavaForConditionalGeneration(config).eval()


@pytest.mark.parametrize("version", [3, 0], ids=["Gemma3", "Llava"])
def test_models_that_also_see_are_causal_in_text_alone(version):
    model = gemma(version)
    assert is_causal(model)
    assert_own(model, words())


@pytest.mark.parametrize("kind", ["XLM", "Flaubert"])
def test_masked_models_with_the_name_of_causal_ones_are_not_shifted(kind):
    model = make(f"{kind}WithLMHeadModel", f"{kind}Config", SMALL, emb_dim=16, n_layers=2, n_heads=2, n_words=72)
    assert not is_causal(model)
    assert_own(model, words())


@pytest.mark.parametrize("kind", ["Bart", "Marian", "Pegasus"])
def test_decoders_that_do_not_shift_are_shifted_and_it_is_said(kind):
    model = make(f"{kind}ForCausalLM", f"{kind}Config", BART)
    with pytest.warns(RuntimeWarning, match=r"does not shift its labels \(its own loss is \d"):
        losses = assert_own(model, words(), own=False)
    logits = model(**{key: value for key, value in words().items() if key != "labels"}).logits
    expected = F.cross_entropy(logits[0, :-1], words()["labels"][0, 1:])
    torch.testing.assert_close(losses[0], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_batches(model, [words()])  # once


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: make("XLNetLMHeadModel", "XLNetConfig", SMALL, d_model=16, n_layer=2, n_head=2, d_inner=24),
        lambda: make("BertLMHeadModel", "BertConfig", BERT),
        lambda: make(
            "CpmAntForCausalLM", "CpmAntConfig", SMALL, dim_head=8, dim_ff=24, prompt_length=4, prompt_types=3,
            segment_types=32,
        ),
    ],
    ids=["XLNet", "BertLMHead", "CpmAnt"],
)  # fmt: skip
def test_models_that_see_what_they_are_to_predict_are_refused(make_model):
    model, batch = make_model(), words()
    if type(model).__name__.startswith("CpmAnt"):
        del batch["attention_mask"]
    assert_refused(model, batch, "reads both ways")


@pytest.mark.parametrize("name", ["Bert", "Electra"])
def test_an_objective_that_does_not_fit_is_refused(name):
    case = build(name)
    lm = gv.Pretrained(case.model, None, objective="clm")
    with pytest.raises(ValueError, match="reads both ways"):
        gv.fisher_information(lm, [case.batch], progress=False)
    gv.Pretrained(case.model, None, objective="mlm")
    checked_batches(case.model, [case.batch])


@pytest.mark.parametrize("name", ["GPT2", "OPT"])
def test_a_causal_model_given_as_masked_is_refused_with_both_numbers(name):
    case = build(name)
    gv.Pretrained(case.model, None)  # "mlm" by default
    assert_refused(case.model, case.batch, r"its own loss is \d\.\d+, .* the loss of the token itself is \d\.\d+")


def test_a_stated_objective_counts_where_the_model_reads_both_ways():
    model = make("XLNetLMHeadModel", "XLNetConfig", SMALL, d_model=16, n_layer=2, n_head=2, d_inner=24)
    assert_own(model, words(), objective="mlm")


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_half_precision_hides_no_token_from_another(name):
    """Of a tiny random model the effect of one token on another is smaller than a rounding of bfloat16."""
    case = build(name, dtype=torch.bfloat16)
    assert is_causal(case.model) == (case.objective == "clm")


class MineToo(transformers.T5ForConditionalGeneration):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class MineBehind(transformers.BartForConditionalGeneration):
    def forward(self, input_ids=None, **kwargs):
        return super().forward(input_ids=input_ids, **kwargs)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: MineToo(transformers.T5Config(**T5, decoder_start_token_id=0)),
        lambda: MineBehind(transformers.BartConfig(**BART)),
    ],
)
def test_an_encoder_decoder_behind_any_signature_keeps_its_decoder(make_model):
    model = make_model().eval()
    assert_own(model, {**words(), "labels": words()["labels"][:, :8]})


# -- losses that are another -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more"), [("Bert", "next_sentence_label"), ("Albert", "sentence_order_label")], ids=["BERT", "ALBERT"]
)
def test_a_model_of_two_losses_is_refused_with_both_numbers(kind, more):
    model = make(f"{kind}ForPreTraining", f"{kind}Config", BERT, **({"embedding_size": 8} if kind == "Albert" else {}))
    two = {**words(), more: torch.tensor([0, 1, 1])}
    assert_refused(model, two, rf"\d\.\d{{4}} on a trial, got \d\.\d{{4}} from the model itself; leave {more} out")
    assert_own(model, words(), own=False)


class Louder(transformers.GPT2LMHeadModel):
    """Its loss is not the one of its logits."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        if outputs.loss is not None:
            outputs.loss = 2 * outputs.loss
        return outputs


def test_a_loss_of_its_own_making_is_refused():
    assert_refused(Louder(transformers.GPT2Config(**GPT2)).eval(), words(), "pass loss=")


@pytest.mark.parametrize(
    ("labels", "problem", "match"),
    [
        (torch.tensor([0.0, 1.0, 2.0]), None, "one per class"),
        (torch.tensor([0.0, 1.0, 2.0]), "single_label_classification", "expected labels as integers"),
        (torch.tensor([0.5, 1.0, 2.0]), "regression", r"shape \(2, 3\)"),
        (torch.tensor([0, 1, 7]), None, "from 0 to 2, got 0 to 7"),
        (torch.tensor([0, -100, 1]), None, "got -100 to 0"),
    ],
)
@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
def test_labels_without_a_loss_are_refused(kind, labels, problem, match):
    model = classifier(kind, num_labels=3, problem_type=problem)
    batch = {**words(), "labels": labels}
    with pytest.raises(ValueError, match=match):
        gv.sequence_losses(model, checked_batches(model, [batch])[0])


def classifier(kind: str, **settings) -> nn.Module:
    sizes = dict(BERT, dim=16, n_layers=2, n_heads=2, hidden_dim=24) if kind == "DistilBert" else BERT
    return make(f"{kind}ForSequenceClassification", f"{kind}Config", sizes, **settings)


@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
@pytest.mark.parametrize(
    ("settings", "labels", "unit"),
    [
        (dict(num_labels=5), torch.tensor([[1.0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 0, 0, 1]]), "nats"),
        (dict(num_labels=12), torch.arange(36).reshape(3, 12).remainder(2).float(), "nats"),  # as many as tokens
        (dict(num_labels=1), torch.tensor([0.5, -1.0, 2.0]), "squared label units"),
        (dict(num_labels=1), torch.tensor([[0.5], [-1.0], [2.0]]), "squared label units"),
        (dict(num_labels=3, problem_type="regression"), torch.randn(3, 3), "squared label units"),
        (dict(num_labels=3), torch.tensor([0, 1, 2]), "nats"),
        (dict(num_labels=3), torch.tensor([[0], [1], [2]]), "nats"),
    ],
    ids=["multi-label", "as many labels as tokens", "regression", "column", "three outputs", "classes", "class column"],
)
def test_labels_of_classifiers_mean_what_they_mean_in_transformers(kind, settings, labels, unit):
    model, batch = classifier(kind, **settings), {**words(), "labels": labels}
    problem = model.config.problem_type
    assert_own(model, batch, own=False)
    assert model.config.problem_type == problem  # the model's own loss writes it
    losses = gv.sequence_losses(model, batch)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses.mean(), classifier(kind, **settings)(**batch).loss, rtol=1e-5, atol=1e-6)
    if labels.shape != (3, 1) or unit != "nats":
        assert loss_unit(batch, model=model) == unit


def test_whole_numbers_are_regression_labels_too():
    model = classifier("Bert", num_labels=1)
    as_numbers, as_classes = (
        {**words(), "labels": labels} for labels in (torch.tensor([1.0, 0, 2]), torch.tensor([1, 0, 2]))
    )
    torch.testing.assert_close(gv.sequence_losses(model, as_classes), gv.sequence_losses(model, as_numbers))


@pytest.mark.parametrize("labels", [torch.ones(3, 12), torch.ones(3, 12, dtype=torch.long)], ids=["float", "int"])
@pytest.mark.parametrize("kind", ["Electra"])
def test_a_score_for_each_token_is_refused(kind, labels):
    model = make(f"{kind}ForPreTraining", f"{kind}Config", BERT, embedding_size=8)
    assert_refused(model, {**words(), "labels": labels}, "pass loss=")


def test_span_heads_are_refused_with_the_remedy():
    assert_refused(make("BertForQuestionAnswering", "BertConfig", BERT), words(), "pass loss=")


# -- encoder-decoders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more"),
    [("M2M100", {}), ("Blenderbot", {}), ("NllbMoe", dict(num_experts=4, expert_capacity=64)), ("PLBart", {}),
     ("FSMT", dict(langs=["en", "de"], src_vocab_size=72, tgt_vocab_size=72))],
)  # fmt: skip
def test_decoder_inputs_are_made_as_the_model_makes_them(kind, more):
    model = make(f"{kind}ForConditionalGeneration", f"{kind}Config", BART, **more)
    batch = {**words(), "labels": words()["labels"][:, :8].clone()}
    before = {name: value.clone() for name, value in batch.items()}
    (checked,) = checked_batches(model, [batch])
    losses = gv.sequence_losses(model, checked)
    assert all(torch.equal(batch[name], value) for name, value in before.items())  # FSMT shifts in place
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    for row in range(3):
        one = {name: value[row : row + 1].clone() for name, value in batch.items()}
        if prepare is not None:
            one["decoder_input_ids"] = prepare(labels=one["labels"].clone())
        logits = model(**one).logits[0]
        expected = F.cross_entropy(logits, before["labels"][row])
        torch.testing.assert_close(losses[row], expected, rtol=1e-5, atol=1e-6)


class Feeding(transformers.BartForConditionalGeneration):
    """Left alone, it feeds its decoder the text."""

    def forward(self, input_ids=None, decoder_input_ids=None, **kwargs):
        decoder_input_ids = input_ids if decoder_input_ids is None else decoder_input_ids
        return super().forward(input_ids=input_ids, decoder_input_ids=decoder_input_ids, **kwargs)


@pytest.mark.parametrize("length", [12, 8], ids=["as long as the text", "shorter"])
@pytest.mark.parametrize(
    "make_model",
    [
        lambda: make(
            "FSMTForConditionalGeneration", "FSMTConfig", BART, langs=["en", "de"], src_vocab_size=72, tgt_vocab_size=72
        ),
        lambda: Feeding(transformers.BartConfig(**BART)).eval(),
    ],
    ids=["FSMT", "Bart"],
)
def test_a_decoder_that_is_fed_the_text_is_said_once_and_gets_its_labels(make_model, length):
    model, batch = make_model(), words()
    batch["labels"] = batch["labels"].flip(0)[:, :length].clone()
    before = {name: value.clone() for name, value in batch.items()}
    with pytest.warns(RuntimeWarning, match=r"does not make its decoder's inputs from its labels \(its own loss .* \d"):
        (checked,) = checked_batches(model, [batch])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_batches(model, [batch])  # once
    losses = gv.sequence_losses(model, checked)
    assert all(torch.equal(batch[name], value) for name, value in before.items())
    for row in range(3):
        one = {name: value[row : row + 1].clone() for name, value in before.items()}
        one["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=one["labels"].clone())
        torch.testing.assert_close(losses[row], model(**one).loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["Bart", "T5"])
def test_a_decoder_that_is_fed_its_labels_is_not_spoken_of(kind):
    settings = BART if kind == "Bart" else dict(T5, decoder_start_token_id=0)
    model = make(f"{kind}ForConditionalGeneration", f"{kind}Config", settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_batches(model, [words()])


@pytest.mark.parametrize("kind", ["UMT5", "T5"])
def test_a_token_classifier_on_an_encoder_needs_no_decoder(kind):
    model = make(f"{kind}ForTokenClassification", f"{kind}Config", T5, num_labels=5)
    batch = words()
    assert_own(model, {**batch, "labels": batch["labels"].clamp(max=4)})


@pytest.mark.parametrize("kind", ["Bert", "GPT2"])
def test_a_token_classifier_is_never_shifted(kind):
    model = make(
        f"{kind}ForTokenClassification", f"{kind}Config", {**BERT, **GPT2} if kind == "GPT2" else BERT, num_labels=5
    )
    batch = words()
    assert_own(model, {**batch, "labels": batch["labels"].clamp(max=4)})


@pytest.mark.parametrize("prompt", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_learned_prompts_are_refused_in_a_line(prompt):
    import peft

    more = {"encoder_hidden_size": 8} if prompt == "PromptEncoderConfig" else {}
    settings = getattr(peft, prompt)(task_type="CAUSAL_LM", num_virtual_tokens=4, **more)
    assert_refused(peft.get_peft_model(mine(), settings).eval(), words(), r"got logits of shape \(2, 13, 72\)")


# -- padding and neighbours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GPT2", "Llama", "OPT", "Bloom", "GPTNeoX", "Bert", "Roberta", "T5"])
def test_a_loss_does_not_depend_on_padding_on_the_left(name):
    case = build(name)
    batch = {key: value.clone() for key, value in case.batch.items()}
    for row, length in enumerate(case.batch["attention_mask"].sum(1).tolist()):
        width = batch["attention_mask"].shape[1]
        for key, value in batch.items():
            if value.shape == case.batch["attention_mask"].shape:
                batch[key][row] = case.batch[key][row].roll(width - length)
    assert not torch.equal(batch["attention_mask"], case.batch["attention_mask"])
    (checked,) = checked_batches(case.model, [batch])
    expected = gv.sequence_losses(case.model, case.batch)
    torch.testing.assert_close(gv.sequence_losses(case.model, checked), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gv.sequence_losses(case.model, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make_model", "side"),
    [
        (lambda: make("FNetForMaskedLM", "FNetConfig", BERT), "right"),
        (lambda: make("ConvBertForMaskedLM", "ConvBertConfig", BERT, embedding_size=16, conv_kernel_size=3), "right"),
        (lambda: classifier("Bert", num_labels=3), "left"),  # it reads the first position, which is padding then
    ],
    ids=["FNet", "ConvBert", "BertClassifier"],
)
def test_a_model_whose_padding_changes_the_loss_is_refused(make_model, side):
    model, batch = make_model(), words(side)
    if "Classification" in type(model).__name__:
        batch["labels"] = torch.tensor([0, 1, 2])
    assert_refused(model, batch, f"padding on the {side}")
    equal = {key: value[:1] for key, value in words().items()}
    if "Classification" not in type(model).__name__:
        checked_batches(model, [equal])


FUNNEL = dict(
    vocab_size=72, d_model=16, block_sizes=[1, 1, 1], num_decoder_layers=1, n_head=2, d_head=8, d_inner=24,
    num_labels=3, pad_token_id=0,
)  # fmt: skip
CANINE = dict(
    BERT, num_hash_functions=4, num_hash_buckets=16, downsampling_rate=4, local_transformer_stride=4, num_labels=3
)
KERNEL = dict(BERT, embedding_size=16, conv_kernel_size=3, num_labels=3, initializer_range=0.2)


@pytest.mark.parametrize("lengths", [(12, 7, 9), (12, 8, 8), (11, 7, 9), (10, 8, 7), (9, 8, 7)], ids=str)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("Funnel", FUNNEL), ("Canine", CANINE), ("FNet", dict(BERT, num_labels=3)), ("ConvBert", KERNEL)],
    ids=["Funnel", "Canine", "FNet", "ConvBert"],
)
def test_a_classifier_whose_padding_changes_the_loss_is_refused_whatever_the_lengths(kind, settings, lengths):
    """A trial on twelve tokens alone would say nothing of those that pool by two or four."""
    model = make(f"{kind}ForSequenceClassification", f"{kind}Config", settings)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = words()["input_ids"][0, : max(lengths)] * mask
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 2])}
    assert_refused(model, batch, "padding on the right")
    for row in range(3):  # of one length each
        one = alone(batch, row)
        (checked,) = checked_batches(model, [one])
        torch.testing.assert_close(gv.sequence_losses(model, checked)[0], model(**one).loss, rtol=1e-5, atol=1e-6)


class Stubborn(transformers.FNetForSequenceClassification):
    """It takes position ids by name alone."""

    def forward(self, input_ids=None, position_ids=None, **kwargs):
        if position_ids is not None:
            raise RuntimeError("upper bound and lower bound inconsistent with step sign")
        return super().forward(input_ids=input_ids, **kwargs)


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: Stubborn(transformers.FNetConfig(**BERT, num_labels=3)).eval(),
        lambda: make(
            "ReformerForSequenceClassification", "ReformerConfig", SMALL, attention_head_size=8, feed_forward_size=24,
            lsh_attn_chunk_length=8, axial_pos_embds=False, hash_seed=0, attn_layers=["lsh"], num_buckets=2,
            num_labels=3, is_decoder=False, initializer_range=0.2,
        ),
    ],
    ids=["FNet", "Reformer"],
)  # fmt: skip
def test_position_ids_that_a_model_cannot_do_with_are_no_error_from_deep_inside(make_model):
    assert_refused(make_model(), {**words(), "labels": torch.tensor([0, 1, 2])}, "padding on the right")


@pytest.mark.parametrize("kind", ["Gemma2", "Mistral"])
def test_a_window_narrower_than_the_padding_of_a_trial_is_no_reason_to_refuse(kind):
    """In a window of padding alone attention may give NaN; the batch itself has less padding than that."""
    sizes = dict(BERT, head_dim=8, num_key_value_heads=1, sliding_window=8, num_labels=3)
    model = make(f"{kind}ForSequenceClassification", f"{kind}Config", sizes).double()
    assert_own(model, {**words(), "labels": torch.tensor([0, 1, 2])})


@pytest.mark.parametrize("kind", ["Bert", "GPT2"])
def test_padding_is_tried_where_a_sequence_fills_all_positions(kind):
    """Positions that are those of the padded text, on the left, and no room to pad the longest sequence."""
    sizes = {**BERT, "max_position_embeddings": 12} if kind == "Bert" else {**GPT2, "n_positions": 12}
    model = make("BertForMaskedLM" if kind == "Bert" else "GPT2LMHeadModel", f"{kind}Config", sizes)
    assert_own(model, words("left"))


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: make("DogeForCausalLM", "DogeConfig", BERT, is_moe=True, num_experts=4, num_experts_per_tok=2),
        lambda: Mixing(),
    ],
    ids=["Doge", "mixing"],
)
def test_sequences_that_influence_each_other_are_said_once(make_model):
    model = make_model()
    with pytest.warns(RuntimeWarning, match="influence each other"):
        checked_batches(model, [words()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked_batches(model, [words()])


class Mixing(transformers.BertForMaskedLM):
    """Each sequence sees the mean of the batch."""

    def __init__(self) -> None:
        super().__init__(transformers.BertConfig(**BERT))
        self.eval()
        self.cls.register_forward_pre_hook(lambda module, args: (args[0] + args[0].mean((0, 1)),))


# -- what is remembered of a model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Bert", "Electra"])
def test_an_appended_layer_is_noticed(name):
    case = build(name)
    layers = case.model.base_model.encoder.layer
    gv.sequence_losses(case.model, case.batch)
    before = facts_of(case.model)["position-wise end"]
    layers.append(type(layers[0])(case.model.config).eval())
    losses = gv.sequence_losses(case.model, case.batch)
    assert facts_of(case.model)["position-wise end"] is not before
    logits = case.model(**{key: value for key, value in case.batch.items() if key != "labels"}).logits
    expected = F.cross_entropy(logits[0], case.batch["labels"][0])
    torch.testing.assert_close(losses[0], expected, rtol=1e-5, atol=1e-6)


class MeanPooler(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.mean(1)


@pytest.mark.parametrize("name", ["Bert", "Ernie"])
def test_a_replaced_pooler_is_noticed(name):
    model = make(f"{name}ForSequenceClassification", f"{name}Config", BERT, num_labels=3)
    batch = {key: value[:1].expand(3, -1).clone() for key, value in words().items()}
    batch["labels"] = torch.tensor([0, 1, 2])
    gv.sequence_losses(model, batch)
    model.base_model.pooler = MeanPooler()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = F.cross_entropy(logits, batch["labels"], reduction="none")
    torch.testing.assert_close(gv.sequence_losses(model, batch), expected)


def test_a_new_module_is_not_taken_for_one_whose_place_in_memory_it_has():
    model = nn.Sequential(nn.Linear(2, 2))
    for _ in range(50):
        facts_of(model)["seen"] = True
        del model[0]
        model.append(nn.Linear(2, 2))
        assert "seen" not in facts_of(model)


# -- nondeterminism, inputs, weights -----------------------------------------------------------------------------------


class Dropping(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.inner(hidden), 0.1)


def drops_always(name: str) -> tuple[nn.Module, str]:
    model = build(name).model
    if name == "Bert":
        model.bert.encoder.layer[1].intermediate.dense = Dropping(model.bert.encoder.layer[1].intermediate.dense)
        return model, "bert.encoder.layer.1.intermediate.dense"
    if name == "GPT2":
        model.transformer.h[0].mlp.c_fc = Dropping(model.transformer.h[0].mlp.c_fc)
        return model, "transformer.h.0.mlp.c_fc"
    model.model.norm.register_forward_hook(lambda module, args, output: output + 0.01 * torch.randn_like(output))
    return model, "model.norm"


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Llama"])
def test_a_module_that_draws_in_eval_mode_is_named(name):
    model, place = drops_always(name)
    state = torch.get_rng_state()
    assert_refused(model, build(name).batch, f"'{place}' gives other values each time")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_module_that_draws_is_named_beside_a_loss_of_ones_own_too():
    model = nn.Sequential(nn.Linear(3, 8), Dropping(nn.Linear(8, 1)))
    batch = {"input": torch.randn(40, 3), "labels": torch.randn(40)}
    with pytest.raises(ValueError, match="'1' gives other values each time"):
        checked_batches(model, [batch], loss=lambda outputs, batch: (outputs[:, 0] - batch["labels"]) ** 2)


class Writing(transformers.GPT2LMHeadModel):
    def forward(self, input_ids=None, **kwargs):
        input_ids[:, 0] = 5
        return super().forward(input_ids=input_ids, **kwargs)


class WritingMask(transformers.BertForMaskedLM):
    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        attention_mask.mul_(1)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


@pytest.mark.parametrize(
    ("make_model", "name"),
    [
        (lambda: Writing(transformers.GPT2Config(**GPT2)), "input_ids"),
        (lambda: WritingMask(transformers.BertConfig(**BERT)), "attention_mask"),
    ],
)
def test_a_model_that_writes_into_its_inputs_is_refused_and_writes_into_copies(make_model, name):
    batch = words()
    before = {key: value.clone() for key, value in batch.items()}
    assert_refused(make_model().eval(), batch, f"writes into {name}")
    assert all(torch.equal(batch[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["Bert", "Llama"])
def test_a_mask_of_its_own_making_is_an_input_like_any_other(name):
    case = build(name)
    mask = case.batch["attention_mask"]
    own = torch.zeros(len(mask), 1, mask.shape[1], mask.shape[1])
    own.masked_fill_(mask[:, None, None] == 0, torch.finfo(torch.float32).min)
    if case.objective == "clm":
        own += torch.full_like(own, torch.finfo(torch.float32).min / 2).triu(1)
    (batch,) = checked_batches(case.model, [{**case.batch, "attention_mask": own}])
    expected = gv.sequence_losses(case.model, case.batch)
    torch.testing.assert_close(gv.sequence_losses(case.model, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", ["tolist", "numpy", "int"])
def test_numbers_in_any_container_are_batches(change):
    model = make("GPT2LMHeadModel", "GPT2Config", GPT2)
    given = {key: getattr(value, change)() for key, value in words().items()}
    found = checked_batches(model, given)
    torch.testing.assert_close(gv.sequence_losses(model, found[0]), gv.sequence_losses(model, words()))


def test_batches_that_are_right_come_back_as_they_are(tiny_lm, tiny_batches):
    assert checked_batches(tiny_lm, tiny_batches) is tiny_batches


def rows():
    import datasets

    return datasets.Dataset.from_dict({key: value.tolist() for key, value in words().items()})


@pytest.mark.parametrize(
    ("batches", "error", "match"),
    [
        (rows, ValueError, r"shape \(N, T\), got \(12,\)"),
        (lambda: rows().with_format("torch"), ValueError, r"shape \(N, T\), got \(12,\)"),
        (lambda: list(rows()), ValueError, "collate rows"),
        (lambda: {key: value[0] for key, value in words().items()}, ValueError, r"got \(12,\)"),
        (lambda: ["a text"], TypeError, "batch 0 as a dict"),
        (lambda: "a text", TypeError, "got str"),
        (lambda: words()["input_ids"], TypeError, "got Tensor"),
        (lambda: [], ValueError, "at least one batch, got none"),
        (lambda: [{**words(), "text": ["a", "b", "c"]}], TypeError, "'text' of batch 0"),
        (lambda: [{"input_ids": [[3, 4], [5]], "labels": [[3, 4], [5]]}], TypeError, "rows to one length"),
        (lambda: [words(), {**words(), "input_ids": words()["input_ids"] + 40}], ValueError, "resize_token_embeddings"),
        (lambda: [{key: value[:, :1] for key, value in words().items()}], ValueError, "is a single token"),
        (lambda: [{**words(), "labels": words()["labels"][:, :5]}], ValueError, "one label per token"),
    ],
)
def test_what_are_no_batches_is_said_in_one_line(batches, error, match):
    with pytest.raises(error, match=match) as caught:
        checked_batches(make("GPT2LMHeadModel", "GPT2Config", GPT2), batches())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "pad"), [("Roberta", 0), ("XLMRoberta", 1), ("Bert", 0)])
def test_the_advised_length_works(kind, pad):
    model = make(f"{kind}ForMaskedLM", f"{kind}Config", BERT, max_position_embeddings=10, pad_token_id=pad)
    with pytest.raises(ValueError, match="max_length=") as caught:
        checked_batches(model, [words()])
    advised = int(str(caught.value).split("max_length=")[1].split()[0])
    assert advised == (10 if kind == "Bert" else 9 - pad)
    shorter = {key: value[:1, :advised] for key, value in words().items()}
    assert bool(gv.sequence_losses(model, checked_batches(model, [shorter])[0]).isfinite().all())


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_attention_without_gradients_names_its_remedy(name):
    model = transformers.AutoModelForCausalLM.from_config(
        configuration(name), attn_implementation="flex_attention"
    ).eval()
    assert_refused(model, words(), r"set_attn_implementation\('sdpa'\)")
    model.set_attn_implementation("sdpa")
    checked_batches(model, [words()])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_too_coarse_for_gradients_are_refused(dtype):
    model = make("GPT2LMHeadModel", "GPT2Config", GPT2)
    model.transformer.h[0].mlp.c_fc.weight = nn.Parameter(model.transformer.h[0].mlp.c_fc.weight.data.to(dtype))
    assert_refused(model, words(), r"got 'transformer\.h\.0\.mlp\.c_fc\.weight' of type float8")


def test_an_error_from_deep_inside_is_one_line():
    model = make("LlamaForCausalLM", "LlamaConfig", BERT)
    weight = model.model.layers[0].mlp.up_proj.weight
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(weight.data.to(torch.int8), requires_grad=False)
    assert_refused(model, words(), "RuntimeError, expected m1 and m2 to have the same dtype")


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_a_look_at_a_model_is_the_same_inside_autocast(name):
    case = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        checked_batches(case.model, [case.batch])
        assert is_causal(case.model) == (case.objective == "clm")
