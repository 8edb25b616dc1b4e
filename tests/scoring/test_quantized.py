"""Models whose layers hold packed weights, or round their inputs: against every text scored alone by a bare call."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    ByT5Tokenizer,
    T5Config,
)

from hf_exposure import (
    CanaryTemplate,
    Digits,
    ExposureReport,
    draw_canaries,
    extract,
    log_perplexity,
    measure_exposure,
    rank_bounds,
)
from hf_exposure.errors import InputError
from hf_exposure.loading import ModelSource
from hf_exposure.runtime.batches import rows_mix
from hf_exposure.runtime.logits import LogitReader
from hf_exposure.runtime.model_state import compute_dtype, evaluating
from hf_exposure.runtime.precision import EIGHT_BITS, coarsest_dtype, parameter_count, rounds_inputs, weights_kept
from hf_exposure.runtime.processes import SINGLE_PROCESS
from hf_exposure.scoring import CausalScorer, MaskedScorer, make_scorer
from hf_exposure.scoring.probe import Contradiction
from hf_exposure.scoring.select import sees_later_tokens

TOKENIZER = ByT5Tokenizer()
TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(2))
TEXTS = [f"pin {number:02d} ok" for number in range(100)]
# bitsandbytes packs blocks of 64 inputs.
WIDE = {"hidden_size": 64, "intermediate_size": 128}
# Warnings of the libraries when they are imported or used, and of torch about its own quantization.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::SyntaxWarning"
)


def alone_bits(model: nn.Module) -> np.ndarray:
    """(N,) bits of every text, one bare call each."""
    bits = []
    with evaluating(model):
        for text in TEXTS:
            ids = torch.tensor(TOKENIZER(text, add_special_tokens=False)["input_ids"])
            log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].double(), dim=-1)
            bits.append(-log_p.gather(1, ids[1:, None]).sum().item() / math.log(2.0))
    return np.array(bits)


class SharedScale(nn.Linear):
    """Rounds its inputs to 8 bits by the largest entry of the whole batch; marked like optimum-quanto's layers."""

    activation_qtype: Any = None
    steps = 127

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = x.abs().amax() / self.steps
        return super().forward((x / step).round() * step)


def replaced(model: nn.Module, kind: type[nn.Linear], **marks: Any) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                layer = kind(child.in_features, child.out_features, bias=child.bias is not None)
                layer.load_state_dict(child.state_dict())
                vars(layer).update(marks)
                setattr(parent, name, layer)
    return model.eval()


def with_shared_scale(scale: float = 0.1, **marks: Any) -> nn.Module:
    return replaced(tiny_model("llama", scale=scale), SharedScale, **{"activation_qtype": "qint8", **marks})


def dynamic(model: nn.Module) -> nn.Module:
    """torch's own dynamic quantization: 8-bit weights, and one step for the inputs of a whole batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    "make", [with_shared_scale, lambda: dynamic(tiny_model("llama", scale=0.1))], ids=["marked layers", "torch.ao"]
)
def test_rows_that_share_a_step_are_scored_alone(make: Callable[[], nn.Module]) -> None:
    model = make()
    alone = alone_bits(model)
    ids = torch.tensor(TOKENIZER(TEXTS, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].double().log_softmax(-1)
    in_batch = -logits.gather(2, ids[:, 1:, None]).sum((1, 2)).numpy() / math.log(2.0)
    assert np.abs(in_batch - alone).max() > 1e-3  # the model's own scores of texts in one batch
    scorer = make_scorer(model, TOKENIZER)
    assert isinstance(scorer, CausalScorer)
    np.testing.assert_allclose(scorer.sequence_bits(scorer.encode(TEXTS)), alone, atol=1e-6)
    assert scorer.mode == "alone" and scorer.tolerance_bits == 1.0
    np.testing.assert_array_equal(
        log_perplexity(model, TOKENIZER, TEXTS[::-1])[::-1], scorer.alone_bits(scorer.encode(TEXTS))
    )
    found = extract(model, TOKENIZER, TEMPLATE, top_k=3)
    best = np.sort(alone)[:3]
    cost_of = dict(zip(TEXTS, alone.tolist(), strict=True))
    assert found.certified and found.mode == "alone" and "1.0 bits" in found.note
    for candidate, cost in zip(found.candidates, best, strict=True):
        assert abs(candidate.log_perplexity_bits - cost_of[candidate.text]) < 1.0
        assert cost_of[candidate.text] <= cost + 1.0


def test_tokens_that_move_each_other_too_far_are_scored_and_not_searched() -> None:
    # Weights are large and steps few: a token's score changes by more than half a bit with later tokens.
    model = with_shared_scale(scale=0.5, steps=40)
    np.testing.assert_allclose(log_perplexity(model, TOKENIZER, TEXTS), alone_bits(model), atol=1e-6)
    canaries = draw_canaries(TEMPLATE, {1: 1}, controls=1, seed=1)
    assert measure_exposure(model, TOKENIZER, canaries).scoring_mode == "alone"
    with pytest.raises(
        InputError, match=r"must allow a search, but the model's score of the beginning .* what follows"
    ):
        extract(model, TOKENIZER, TEMPLATE)
    with pytest.raises(InputError, match=r"depend on later tokens: .* Or give each token its own scale"):
        log_perplexity(with_shared_scale(scale=0.8, steps=15), TOKENIZER, TEXTS)


def test_what_only_a_search_shows_ends_the_search_and_not_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = with_shared_scale(), CausalScorer.path_bits

    def path_bits(scorer: CausalScorer, *arguments: Any) -> Any:
        scorer._contradiction = Contradiction(by_length=True, bits=0.6)  # as a longer probe finds it
        return read(scorer, *arguments)

    monkeypatch.setattr(CausalScorer, "path_bits", path_bits)
    template = CanaryTemplate("pin {pin} ok", pin=Digits(4))
    canaries = draw_canaries(template, {1: 1}, controls=1, seed=1)
    report = measure_exposure(model, TOKENIZER, canaries, references=20)
    assert any("changes by 0.6 bits" in note for note in report.notes)
    with pytest.raises(InputError, match="changes by 0.6 bits"):
        measure_exposure(model, TOKENIZER, canaries, method="bounded")


def test_a_layer_that_no_library_marks_is_found_by_its_answers() -> None:
    model = with_shared_scale(activation_qtype=None)
    assert coarsest_dtype(model) == torch.float32
    with pytest.raises(InputError, match="depend on later tokens"):
        make_scorer(model, TOKENIZER)
    scorer = CausalScorer(model, TOKENIZER)
    with pytest.raises(InputError, match=r"must read from left to right, but its logits depend on later tokens"):
        scorer.sequence_bits(scorer.encode(TEXTS))


def test_rows_mix_tells_rows_that_share_a_step_from_rows_that_do_not() -> None:
    row = np.arange(60, 72)

    def mixes(model: nn.Module, entries: int | None = 384) -> bool:
        with evaluating(model):
            return rows_mix(LogitReader(model), row, entries, SINGLE_PROCESS)

    for family in ("llama", "gpt2", "bloom", "lstm"):
        assert not mixes(tiny_model(family)), family
    assert not mixes(tiny_model("llama").bfloat16())
    assert mixes(with_shared_scale())
    assert mixes(with_shared_scale(), None)


def masked_model() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=384, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = AutoModelForMaskedLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def test_a_masked_model_with_rows_that_share_a_step() -> None:
    model, tokenizer = dynamic(masked_model()), ByT5Tokenizer()
    tokenizer.mask_token = "<unk>"
    scorer = make_scorer(model, tokenizer)
    found = scorer.sequence_bits(scorer.encode(TEXTS[:20]))
    assert isinstance(scorer, MaskedScorer) and scorer.mode == "alone"
    one_by_one = [scorer.sequence_bits(scorer.encode([text]))[0] for text in TEXTS[:20]]
    np.testing.assert_allclose(found, one_by_one, atol=1e-6)
    scorer = make_scorer(masked_model(), tokenizer)
    scorer.sequence_bits(scorer.encode(TEXTS[:20]))
    assert scorer.mode == "plain"


@pytest.mark.parametrize("sources", ["what?", [f"what is {number}?" for number in range(20)]], ids=["one", "own"])
def test_an_encoder_decoder_with_rows_that_share_a_step(sources: str | list[str]) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 384, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2}
    model = dynamic(AutoModelForSeq2SeqLM.from_config(T5Config(**shape, decoder_start_token_id=0)).eval())
    found = log_perplexity(model, TOKENIZER, TEXTS[:20], sources=sources)
    of = [sources] * 20 if isinstance(sources, str) else sources
    pairs = zip(TEXTS[:20], of, strict=True)
    alone = [log_perplexity(model, TOKENIZER, [text], sources=[source])[0] for text, source in pairs]
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_eight_bits_do_not_hide_a_model_that_reads_both_ways() -> None:
    model = masked_model()
    assert coarsest_dtype(dynamic(model)) == EIGHT_BITS
    assert sees_later_tokens(dynamic(model), TOKENIZER)
    assert not sees_later_tokens(dynamic(tiny_model("llama")), TOKENIZER)


def test_the_coarsest_type_counts() -> None:
    model = tiny_model("llama")
    assert coarsest_dtype(model) == compute_dtype(model) == torch.float32
    layer = model.model.layers[1].mlp.up_proj
    layer.compute_dtype = torch.float16  # as layers of packed weights declare it
    assert coarsest_dtype(model) == torch.float16
    layer.to(torch.bfloat16)
    assert coarsest_dtype(model) == torch.bfloat16 and compute_dtype(model) == torch.float32
    vars(layer)["activation_qtype"] = "qint8"
    assert coarsest_dtype(model) == EIGHT_BITS
    assert coarsest_dtype(tiny_model("llama").double()) == torch.float64
    assert coarsest_dtype(nn.Linear(1, 1).to(torch.float8_e4m3fn)) == torch.float32


class Marked(nn.Parameter):
    """A subclass of parameter, as libraries define them."""


def test_layers_of_libraries_that_round_their_inputs_are_known() -> None:
    layer = nn.Linear(1, 1)
    assert not rounds_inputs(layer)
    layer.quantization_scheme = SimpleNamespace(input_activations=None, weights="int4")  # compressed-tensors, W4A16
    assert not rounds_inputs(layer)
    layer.quantization_scheme = SimpleNamespace(input_activations="int8", weights="int8")
    assert rounds_inputs(layer)
    # Early versions of it cannot be imported without Triton.
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8", exc_type=ImportError)
    assert rounds_inputs(fp8.FP8Linear(64, 64))
    # bitsandbytes' 8-bit layers, before and after training in 16 bits is over.
    layer = nn.Linear(1, 1)
    layer.state = SimpleNamespace(has_fp16_weights=True)
    assert not rounds_inputs(layer)
    layer.state.has_fp16_weights = False
    assert rounds_inputs(layer)
    # torchao marks the weight.
    layer = nn.Linear(1, 1)
    layer.weight = Marked(layer.weight.data)
    layer.weight.act_quant_kwargs = None
    assert not rounds_inputs(layer)
    layer.weight.act_quant_kwargs = "per row"
    assert rounds_inputs(layer)


def test_packed_weights_are_counted_and_their_storage_is_no_dtype() -> None:
    layer = nn.Linear(8, 4, bias=False)
    # bitsandbytes may store bytes as any type: here 8 x 4 weights in 8 numbers of 16 bits.
    layer.weight = Marked(torch.zeros(8, 1, dtype=torch.bfloat16), requires_grad=False)
    layer.weight.quant_state = SimpleNamespace(shape=torch.Size([4, 8]))
    model = nn.Sequential(layer, nn.Linear(4, 2))
    assert parameter_count(model) == 32 + 4 * 2 + 2
    assert compute_dtype(model) == coarsest_dtype(model) == torch.float32


def test_layers_are_kept_from_rearranging_their_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].support_avx512bf16_for_cpu = True
    with pytest.raises(ZeroDivisionError), weights_kept(model.modules()), weights_kept(model.modules()):
        assert model[1].support_avx512bf16_for_cpu is False
        raise ZeroDivisionError
    assert model[1].support_avx512bf16_for_cpu is True and not hasattr(model[0], "support_avx512bf16_for_cpu")


# With the libraries, where they are installed.


def _bitsandbytes(**settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        pytest.importorskip("bitsandbytes")
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(**settings)

    return make


def _torchao(name: str, *values: Any, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        library = pytest.importorskip("torchao.quantization")
        from transformers import TorchAoConfig

        grouped = {key: library.PerGroup(value) for key, value in settings.items()}
        return TorchAoConfig(getattr(library, name)(*values, **grouped))

    return make


def _one_scale() -> Any:
    library = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    return TorchAoConfig(library.Int8DynamicActivationInt8WeightConfig(granularity=library.PerTensor()))


FOUR_BITS = _bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4")
FOUR_BITS_IN_BFLOAT16 = _bitsandbytes(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
KINDS: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
    "bitsandbytes 4": (FOUR_BITS, torch.float32),
    "bitsandbytes 4, bfloat16": (FOUR_BITS_IN_BFLOAT16, torch.bfloat16),
    "bitsandbytes 8": (_bitsandbytes(load_in_8bit=True), EIGHT_BITS),
    "bitsandbytes 8 with outliers": (_bitsandbytes(load_in_8bit=True, llm_int8_threshold=2.0), EIGHT_BITS),
    "torchao 8": (_torchao("Int8WeightOnlyConfig"), torch.float32),
    "torchao 4": (_torchao("IntxWeightOnlyConfig", torch.int4, granularity=32), torch.float32),
    "torchao 8, inputs too": (_torchao("Int8DynamicActivationInt8WeightConfig"), EIGHT_BITS),
    "torchao 4, inputs of 8": (
        _torchao("Int8DynamicActivationIntxWeightConfig", torch.int4, weight_granularity=32), EIGHT_BITS,
    ),
    "torchao 8, one scale": (_one_scale, EIGHT_BITS),
}  # fmt: skip
MIXING = ("bitsandbytes 8 with outliers", "torchao 8, one scale")


def saved(folder: Path, settings: Any, dtype: str = "float32") -> Path:
    """A folder with a quantized model and its tokenizer, as somebody publishes one."""
    plain, place = folder / "plain", folder / "quantized"
    tiny_model("llama", scale=0.1, **WIDE).save_pretrained(plain)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, dtype=dtype)
    model.save_pretrained(place)
    TOKENIZER.save_pretrained(place)
    return place


@pytest.mark.parametrize("kind", list(KINDS))
def test_quantized_checkpoints_load_score_and_search(kind: str, tmp_path: Path) -> None:
    settings, dtype = KINDS[kind]
    model, tokenizer = ModelSource(name=str(saved(tmp_path, settings()))).load()
    assert coarsest_dtype(model) == dtype
    # The number of weights is unchanged.
    assert parameter_count(model) == sum(p.numel() for p in tiny_model("llama", **WIDE).parameters())
    scorer = make_scorer(model, tokenizer)
    assert isinstance(scorer, CausalScorer)
    found, alone = scorer.sequence_bits(scorer.encode(TEXTS)), alone_bits(model)
    assert np.abs(found - alone).max() <= scorer.tolerance_bits
    assert scorer.mode == ("alone" if kind in MIXING else "packed")
    unquantized = log_perplexity(tiny_model("llama", scale=0.1, **WIDE), TOKENIZER, TEXTS)
    assert 1e-3 < np.abs(found - unquantized).max() < 10.0
    cost_of, order = dict(zip(TEXTS, alone.tolist(), strict=True)), np.argsort(alone)
    likeliest = extract(model, tokenizer, TEMPLATE, top_k=3)
    assert likeliest.certified
    for candidate, place in zip(likeliest.candidates, order, strict=False):
        assert abs(candidate.log_perplexity_bits - cost_of[candidate.text]) <= scorer.tolerance_bits
        assert cost_of[candidate.text] <= alone[place] + 2 * scorer.tolerance_bits
    for place in (0, 7):
        bounds = rank_bounds(model, tokenizer, TEXTS[order[place]], TEMPLATE)
        assert bounds.certified and bounds.low <= place + 1 <= bounds.high


def test_the_command_line_measures_and_extracts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path, FOUR_BITS())
    canaries = draw_canaries(TEMPLATE, {1: 2}, controls=2, seed=1)
    canaries.save(tmp_path / "canaries.json")
    where = ("--model", str(folder))
    command = [sys.executable, "-c", "from hf_exposure.cli import main; main()"]
    measured = [
        *command,
        "measure",
        *where,
        "--canaries",
        str(tmp_path / "canaries.json"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert subprocess.run([*measured, "--device", "cpu"], check=False).returncode == 0
    report = ExposureReport.load(tmp_path / "run")
    assert report.model["quantization"] == "bitsandbytes"
    model, tokenizer = ModelSource(name=str(folder)).load()
    expected = measure_exposure(model, tokenizer, canaries)
    assert [e.exposure_bits for e in report.estimates] == [e.exposure_bits for e in expected.estimates]
    extracted = [*command, "extract", *where, "--template", TEMPLATE.text, "--space", "pin=digits:2", "--json"]
    done = subprocess.run(extracted, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = extract(model, tokenizer, TEMPLATE)
    assert found.candidates[0].text in done.stdout


def test_an_adapter_of_a_quantized_base_is_loaded_on_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = saved(tmp_path, FOUR_BITS())
    base, tokenizer = ModelSource(name=str(folder)).load()
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = ModelSource(name=str(tmp_path / "adapter"), tokenizer=str(folder)).load()
    expected = log_perplexity(model, tokenizer, TEXTS[:9])
    np.testing.assert_allclose(log_perplexity(loaded, tokenizer, TEXTS[:9]), expected, atol=1e-3)
    fresh, _ = ModelSource(name=str(folder)).load()
    assert np.abs(log_perplexity(fresh, tokenizer, TEXTS[:9]) - expected).max() > 0.1


def test_without_the_library_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_exposure.errors import MissingDependencyError

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("needs bitsandbytes: pip install bitsandbytes\nand more")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", missing)
    tiny_model("llama").save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"--model: .* needs another library: needs bitsandbytes: pip"):
        ModelSource(name=str(tmp_path)).load()
