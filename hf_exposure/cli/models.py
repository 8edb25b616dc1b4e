"""A model and its tokenizer from a folder or the Hub, ready to be measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_exposure.cli.values import check_model, check_tokenizer
from hf_exposure.errors import InputError


class Dtype(StrEnum):
    """What the weights are loaded as."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


ModelOption = Annotated[str, typer.Option(help="A folder or Hub id.")]
TokenizerOption = Annotated[str | None, typer.Option(help="A folder or Hub id; the model's own unless given.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Of the weights; auto as saved. Low precision makes ties.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the fastest there is unless given.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. Off unless typed.")
]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from, and how it is loaded."""

    name: str
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    option: str = "--model"

    def check(self) -> None:
        """What can be said of the names before anything heavy is loaded.

        Raises:
            InputError: a folder that is missing or holds no model.
        """
        check_model(self.option, self.name)
        if self.tokenizer is not None:
            check_tokenizer("--tokenizer", self.tokenizer)

    def load(self) -> tuple[Any, Any]:
        """The model, in eval mode on its device, and its tokenizer.

        Raises:
            InputError: a folder that is missing or holds no model, an unknown device.
        """
        self.check()
        import transformers

        transformers.logging.set_verbosity_error()
        if not sys.stderr.isatty():
            transformers.utils.logging.disable_progress_bar()
        tokenizer = self._from("AutoTokenizer", self.tokenizer or self.name)
        model = self._from(self._auto_class(), self.name, dtype=self.dtype)
        return self._on_device(model).eval(), tokenizer

    def _auto_class(self) -> str:
        """Encoder-decoder and masked models are known by their config; all others predict the next token."""
        config = self._from("AutoConfig", self._base_of_adapter() or self.name)
        if getattr(config, "is_encoder_decoder", False):
            return "AutoModelForSeq2SeqLM"
        names = getattr(config, "architectures", None)
        masked = isinstance(names, list) and any("MaskedLM" in str(name) for name in names)
        return "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"

    def _base_of_adapter(self) -> str | None:
        """The model under a LoRA adapter: a folder of one has a config of its own kind only."""
        if not (Path(self.name) / "adapter_config.json").exists() or (Path(self.name) / "config.json").exists():
            return None
        from hf_exposure.errors import MissingDependencyError

        try:
            from peft import PeftConfig
        except ImportError:
            raise MissingDependencyError('adapters need peft: pip install "hf-exposure[peft]"') from None
        return str(PeftConfig.from_pretrained(self.name).base_model_name_or_path)

    def _from(self, auto_class: str, name: str, **arguments: Any) -> Any:
        import transformers

        # A tokenizer or base model of another name has revisions of its own.
        revision = {"revision": self.revision} if self.revision and name == self.name else {}
        try:
            return getattr(transformers, auto_class).from_pretrained(
                name, trust_remote_code=self.trust_remote_code, **revision, **arguments
            )
        except MemoryError:
            raise
        except Exception as error:  # settings and weights of any kind may stand in a folder
            # The library's own message runs over many lines; its first says what is wrong.
            said = str(error).strip().splitlines() or [type(error).__name__]
            option = "--tokenizer" if auto_class == "AutoTokenizer" and self.tokenizer else self.option
            rule = f"must be a folder or Hub id that loads ({said[0]})"
            raise InputError(option, rule, name, "Check the name, or name a folder of a saved model.") from None

    def _on_device(self, model: Any) -> Any:
        import torch

        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            return model.to(self.device or best)
        except (RuntimeError, AssertionError) as error:
            rule = f"must be a device of this machine ({str(error).splitlines()[0]})"
            raise InputError("--device", rule, self.device or best, "Type --device cpu.") from None


def load_tokenizer(name: str) -> Any:
    """A tokenizer alone.

    Raises:
        InputError: no folder or Hub id of one.
    """
    check_tokenizer("--tokenizer", name)
    return ModelSource(name=name, tokenizer=name)._from("AutoTokenizer", name)
