"""The private names of other libraries that the package uses are still there, and mean what they meant.

Many of them are read with a default, so that a library without them works too. If a library merely renames one,
nothing fails: figures become wrong, or a check is skipped. Each test says what depends on its name.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import hf_exposure

PACKAGE = Path(hf_exposure.__file__).parent
CHECKS: dict[str, tuple[str, Callable[[], bool]]] = {}


def depends(name: str, what: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Registers a check of `name`, with the part of the package that depends on it."""

    def register(check: Callable[[], bool]) -> Callable[[], bool]:
        CHECKS[name] = what, check
        return check

    return register


# Python


@depends("re._parser", "Pattern reads regular expressions with Python's own parser")
def _parser() -> bool:
    from re import _constants, _parser

    tree = _parser.parse(r"[a-c]{2}|\d")
    (operation, _), *_ = tree
    return operation is _constants.BRANCH and tree.getwidth() == (1, 2) and not tree.state.flags & ~32


@depends("re._constants", "Pattern tells literals, classes, groups and repetitions apart")
def _constants() -> bool:
    from re import _constants as sre

    names = "LITERAL NOT_LITERAL ANY IN NEGATE RANGE CATEGORY BRANCH SUBPATTERN MAX_REPEAT MIN_REPEAT MAXREPEAT AT"
    more = "GROUPREF CATEGORY_DIGIT CATEGORY_NOT_DIGIT CATEGORY_WORD CATEGORY_NOT_WORD"
    return all(hasattr(sre, name) for name in f"{names} {more}".split())


# torch


@depends("_to_copy", "a planned cost knows casts of logits from computations with them")
def _to_copy() -> bool:
    seen: list[object] = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function: object, types: object, args: tuple = (), kwargs: dict | None = None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Seen():
        torch.zeros(2, dtype=torch.bfloat16).float()
    return torch.ops.aten._to_copy.default in seen


@depends("_get_default_store", "processes of a job agree on canaries and notice that one of them is missing")
def _store() -> bool:
    return not inspect.signature(torch.distributed.distributed_c10d._get_default_store).parameters


@depends("_compiled_call_impl", "a model that compiles itself is scored without a hook inside the compiled code")
def _compiled() -> bool:
    model = nn.Linear(1, 1)
    before = model._compiled_call_impl
    model.compile()
    return before is None and model._compiled_call_impl is not None


def _numbers_hooks_once(register: str, kept: str) -> bool:
    model = nn.Linear(1, 1)
    getattr(model, register)(print).remove()
    first = getattr(model, register)(print).id
    return list(getattr(model, kept)) == [first] and getattr(nn.Linear(1, 1), register)(print).id > first


@depends("_forward_hooks", "a model is tried again once somebody added a hook")
def _hooks() -> bool:
    return _numbers_hooks_once("register_forward_hook", "_forward_hooks")


@depends("_forward_pre_hooks", "a model is tried again once somebody added a hook in front of it")
def _pre_hooks() -> bool:
    return _numbers_hooks_once("register_forward_pre_hook", "_forward_pre_hooks")


@depends("_orig_mod", "the model inside torch.compile is found, with its config and its eval mode")
def _original() -> bool:
    model = nn.Linear(1, 1)
    return torch.compile(model)._orig_mod is model


@depends("_version", "exposures of a base model are measured again when its weights have changed")
def _counter() -> bool:
    parameter = nn.Parameter(torch.zeros(1))
    before = parameter._version
    with torch.no_grad():
        parameter.add_(1.0)
    return parameter._version > before


@depends("_local_shard", "FSDP's weights are known to be shared out, so that all processes feed the same batches")
def _shard() -> bool:
    from torch.distributed.fsdp import FullyShardedDataParallel, _flat_param
    from torch.distributed.tensor import DTensor

    names = [kind.__name__ for kind in (DTensor, _flat_param.FlatParameter, FullyShardedDataParallel)]
    is_set = "flat_param._local_shard = " in inspect.getsource(_flat_param)
    return is_set and names == ["DTensor", "FlatParameter", "FullyShardedDataParallel"]


@depends("_subclasses", "the cost planner traces a model's calls without memory for them")
def _fake_tensors() -> bool:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        made = torch.zeros(2**40, dtype=torch.uint8)
    return made.nbytes == 2**40 and made.device.type == "cpu"


@depends("_python_dispatch", "the cost planner sees which tensors are made")
def _dispatch() -> bool:
    from torch.utils._python_dispatch import TorchDispatchMode

    return hasattr(TorchDispatchMode, "__torch_dispatch__")


@depends("_pytree", "the cost planner finds the tensors among an operation's results")
def _leaves() -> bool:
    from torch.utils._pytree import tree_leaves

    return tree_leaves([1, (2, {"three": 3})]) == [1, 2, 3]


@depends("_cdata", "the cost planner knows views by the storage that they share")
def _address() -> bool:
    tensor = torch.zeros(4)
    return (
        tensor.untyped_storage()._cdata
        == tensor[1:].untyped_storage()._cdata
        != torch.ones(4).untyped_storage()._cdata
    )


# transformers, accelerate, datasets, huggingface_hub


@depends("_tp_size", "processes of tensor parallelism feed the same batches")
def _tensor_parallel() -> bool:
    from transformers import PreTrainedModel

    return hasattr(PreTrainedModel, "_tp_size")


@depends("_hf_peft_config_loaded", "base_model='without_adapter' finds adapters of transformers' own")
def _adapter() -> bool:
    from transformers import PreTrainedModel

    return PreTrainedModel._hf_peft_config_loaded is False


@depends("_name_or_path", "the report says which model was measured")
def _name() -> bool:
    from transformers import GPT2Config

    return GPT2Config(name_or_path="me/model")._name_or_path == "me/model"


@depends("_attn_implementation", "how to read a model is determined again if its attention has changed")
def _attention() -> bool:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_layer=1, n_head=1, n_embd=4))
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    return before == "sdpa" and model.config._attn_implementation == "eager"


@depends("_commit_hash", "the report says which revision of a model was measured, where transformers keeps it")
def _commit() -> bool:
    from transformers import configuration_utils

    # Newer releases drop it, and the report then says None.
    return 'kwargs.pop("_commit_hash", None)' in inspect.getsource(configuration_utils)


@depends("_encode_plus", "a tokenizer class that encodes in a way of its own is refused a certificate")
def _encoding() -> bool:
    from transformers import PreTrainedTokenizerFast

    names = ("__call__", "_encode_plus", "backend_tokenizer")
    return all(hasattr(PreTrainedTokenizerFast, name) for name in names)


@depends("_tokenizer", "a tokenizer class that holds another backend is refused a certificate")
def _backend() -> bool:
    from transformers import PreTrainedTokenizerFast

    return "self._tokenizer = " in inspect.getsource(inspect.getmodule(PreTrainedTokenizerFast))


@depends("_wandb", "the report becomes an artifact of Weights & Biases")
def _weights_and_biases() -> bool:
    from transformers.integrations.integration_utils import WandbCallback

    return "self._wandb = " in inspect.getsource(WandbCallback)


@depends("_trackio", "the report becomes an artifact of trackio")
def _tracker() -> bool:
    from transformers.integrations.integration_utils import TrackioCallback

    return "self._trackio = " in inspect.getsource(TrackioCallback)


@depends("_ml_flow", "the report becomes artifacts of an MLflow run")
def _mlflow() -> bool:
    from transformers.integrations.integration_utils import MLflowCallback

    return "self._ml_flow = " in inspect.getsource(MLflowCallback)


@depends("_hf_hook", "a model whose weights accelerate keeps elsewhere is not taken for one without weights")
def _hook() -> bool:
    from accelerate.hooks import ModelHook, add_hook_to_module

    return hasattr(add_hook_to_module(nn.Linear(1, 1), ModelHook()), "_hf_hook")


@depends("_shared_state", "pipeline and context parallelism are refused, in which no process sees whole texts")
def _accelerator_state() -> bool:
    from accelerate.state import AcceleratorState

    is_set = "self.parallelism_config = " in inspect.getsource(AcceleratorState)
    return is_set and isinstance(AcceleratorState._shared_state, dict)


@depends("_indices", "delivery is searched for in the rows that a shuffled or selected dataset really has")
def _selected() -> bool:
    from datasets import Dataset

    rows = Dataset.from_dict({"row": [0, 1, 2]})
    return rows._indices is None and rows.select([2, 0])._indices.column(0).to_pylist() == [2, 0]


@depends("_fingerprint", "a report tells which rows its canaries were inserted into")
def _hash() -> bool:
    from datasets import Dataset

    rows = [Dataset.from_dict({"row": [number]}) for number in (0, 0, 1)]
    first, same, other = (one._fingerprint for one in rows)
    return isinstance(first, str) and first == same != other


@depends("_formatting", "a stream with canaries gives tensors where the stream without them did")
def _format() -> bool:
    from datasets import Dataset

    stream = Dataset.from_dict({"row": [0]}).to_iterable_dataset()
    return stream._formatting is None and stream.with_format("torch")._formatting.format_type == "torch"


@depends("_distributed", "a node's share of a stream is refused, into which canaries would go once a node")
def _split() -> bool:
    from datasets import Dataset
    from datasets.distributed import split_dataset_by_node

    stream = Dataset.from_dict({"row": [0, 1]}).to_iterable_dataset()
    return stream._distributed is None and split_dataset_by_node(stream, 0, 2)._distributed is not None


@depends("HfHubHTTPError.__mro__", "a Hub that cannot be reached is told apart from a bug")
def _transport() -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    parent = HfHubHTTPError.__mro__[1]
    return parent.__name__ == "HTTPError" and parent.__module__.startswith("httpx")


@pytest.mark.parametrize("name", CHECKS)
def test_the_name_is_still_there(name: str) -> None:
    what, check = CHECKS[name]
    try:
        is_there = check()
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{name} is gone ({error}). On it depends: {what}.")
    assert is_there, f"{name} is gone, or means something else. On it depends: {what}."


def test_every_private_name_in_use_is_watched() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))]
    own = {name for tree in trees for name in _defined(tree)}
    used = {name for tree in trees for name in _used(tree)}
    assert used - own - {name.removeprefix("re.") for name in CHECKS} == set()


def _defined(tree: ast.Module) -> Iterator[str]:
    """Names that the package itself defines: functions, classes, variables, fields, modules."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _used(tree: ast.Module) -> Iterator[str]:
    """Private names that are read as attributes, passed to getattr or hasattr, or imported from elsewhere."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            names = [node.attr]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            names = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("hf_exposure", "__future__")):
            names = [*(alias.name for alias in node.names), *(node.module or "").split(".")]
        yield from (name for name in names if name.startswith("_") and not name.startswith("__"))


def test_a_new_private_name_would_be_found() -> None:
    tree = ast.parse("from a._b import _c\nself._own = 1\nx._d\ngetattr(x, '_e', None)\nself._f\n__version__")
    assert set(_used(tree)) == {"_b", "_c", "_d", "_e"}
    assert set(_defined(tree)) == {"_own"}
