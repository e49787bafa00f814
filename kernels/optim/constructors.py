"""The drop-ins' constructors: torch's signature, errors and implementation switches, plus ours."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithm import Algorithm, Recipe

_OURS: Mapping[str, Any] = {"recipe": None, "backend": "auto", "master_weights": False}
_SWITCHES = ("foreach", "fused", "capturable")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A constructor's arguments.

    Attributes:
        params: parameters or groups.
        values: hyperparameters and torch's switches: what becomes ``Optimizer.defaults``.
        recipe, backend, master_weights: as in the signature.
        chosen: whether one of the arguments chooses a recipe, so that groups have no say in it.
    """

    params: Any
    values: dict[str, Any]
    recipe: str | None
    backend: str
    master_weights: bool
    chosen: bool


def constructor_signature(algorithm: Algorithm) -> inspect.Signature:
    """The signature in torch with our keywords added; one from the hyperparameter record where torch has none."""
    title = getattr(torch.optim, algorithm.title, None)
    if title is not None:
        parameters = list(inspect.signature(title.__init__).parameters.values())
    else:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter("self", kind), inspect.Parameter("params", kind)]
        fields = {f.name: f.default for f in dataclasses.fields(algorithm.hyperparameters)}
        ordered = [*algorithm.positional, *(name for name in fields if name not in algorithm.positional)]
        for name in ordered:
            how = kind if name in algorithm.positional else inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, how, default=fields[name]))
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([*plain, *(inspect.Parameter(n, keyword, default=d) for n, d in _OURS.items())])


def bind_constructor(
    algorithm: Algorithm, signature: inspect.Signature, self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Given:
    """The arguments of a constructor call.

    Raises:
        TypeError: for arguments that do not fit the signature.
        ValueError: for a backend that is no string, or a combination that torch refuses too.
    """
    bound = signature.bind(self, *args, **kwargs)
    chosen = any(bound.arguments.get(name) is not None for name in ("recipe", *_SWITCHES))
    bound.apply_defaults()
    values = dict(list(bound.arguments.items())[1:])
    params = values.pop("params")
    recipe, backend, master_weights = (values.pop(name) for name in _OURS)
    # Options that torch fixes for this class (AdamW's decoupled decay) are part of its groups all the same.
    for f in dataclasses.fields(algorithm.hyperparameters):
        values.setdefault(f.name, f.default)
    betas = values.get("betas")
    if isinstance(betas, (Sequence, np.ndarray, Tensor)) and not isinstance(betas, str):
        if len(betas) != 2:
            raise ValueError(f"betas: {betas!r}; give two numbers, beta1 and beta2")
        # Of any sequence, an array or a tensor torch keeps a tuple.
        values["betas"] = tuple(betas)
    if values.get("differentiable"):
        raise ValueError("differentiable=True: these kernels record no graph; use torch.optim for that")
    if values.get("fused") and values.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if recipe is not None and (values.get("foreach") is not None or values.get("fused") is not None):
        raise ValueError("recipe: foreach and fused choose a recipe too; give one of the three")
    _check_tensors(values, eager="foreach-capturable" in algorithm.recipes)
    if "betas" in values:
        values["betas"] = tuple(b.squeeze() if isinstance(b, Tensor) else b for b in values["betas"])
    return Given(
        params=params,
        values=values,
        recipe=recipe,
        backend=backend,
        master_weights=bool(master_weights),
        chosen=chosen,
    )


def _check_tensors(values: Mapping[str, Any], *, eager: bool) -> None:
    """The rules of torch for hyperparameters given as tensors."""
    unsupported = eager and values["foreach"] and not values["capturable"]
    betas = values.get("betas", ())
    if eager and not any(all(isinstance(beta, kind) for beta in betas) for kind in (float, Tensor)):
        raise ValueError("betas must be either both floats or both Tensors")
    given = {"lr": values["lr"], **{f"betas[{k}]": beta for k, beta in enumerate(betas)}}
    for name, value in given.items():
        if not isinstance(value, Tensor):
            continue
        if unsupported:
            raise ValueError(f"{name} as a Tensor is not supported for capturable=False and foreach=True")
        if value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")


def plain(value: Any) -> Any:
    """A hyperparameter as plain numbers: tensors and numpy's scalars are read, betas become a tuple."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else plain(value.tolist())
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def hyperparameters(algorithm: Algorithm, values: Mapping[str, Any]) -> Any:
    """The algorithm's record of these values.

    Raises:
        ValueError: for a value out of range, in torch's words.
    """
    names = algorithm.hyperparameter_names
    return algorithm.hyperparameters(**{name: plain(values[name]) for name in names})


def choose_recipe(algorithm: Algorithm, recipe: str | None, values: Mapping[str, Any]) -> str:
    """The recipe that was named, or the one that torch's switches stand for.

    Raises:
        ValueError: if the algorithm has no such recipe.
    """
    fused, foreach = values.get("fused"), values.get("foreach")
    capturable = bool(values.get("capturable"))
    if recipe is not None:
        name = algorithm.recipe(recipe).name
    elif fused:
        name = "fused"
    elif foreach is False:
        name = "for-loop"
    elif foreach is None and isinstance(values["lr"], Tensor) and "foreach-capturable" in algorithm.recipes:
        # torch's own default for Adam and AdamW then.
        name = "foreach" if capturable else "for-loop"
    else:
        name = algorithm.default_recipe
    if capturable and f"{name}-capturable" in algorithm.recipes:
        name = f"{name}-capturable"
    if name not in algorithm.recipes:
        raise ValueError(
            f"fused={fused}: there is no fused {algorithm.title}; leave it out, a step is one launch anyway"
        )
    return name


def heed_groups(algorithm: Algorithm, given: Given) -> Given:
    """The arguments with the switches that the groups bring along, where the constructor itself chooses no recipe.

    Groups of a torch optimizer carry its switches: ``kernels.AdamW(optimizer.param_groups)`` goes on as it would.

    Raises:
        ValueError: if the groups ask for more than one recipe.
    """
    if given.chosen or isinstance(given.params, Tensor) or not isinstance(given.params, Iterable):
        return given
    params, values = list(given.params), given.values
    if not params or not all(isinstance(group, Mapping) for group in params):
        return dataclasses.replace(given, params=params)
    # A number among the learning rates: then a tensor chooses nothing, it is read as a number.
    rates = [group.get("lr", values["lr"]) for group in params]
    lr = next((rate for rate in rates if not isinstance(rate, Tensor)), rates[0])
    own = [{n: group.get(n, values[n]) for n in _SWITCHES if n in values} for group in params]
    asked = list(dict.fromkeys(choose_recipe(algorithm, None, {**values, **each, "lr": lr}) for each in own))
    if len(asked) > 1:
        raise ValueError(
            f"params: the groups ask for recipes {' and '.join(map(repr, asked))}; all groups of an optimizer have one "
            "recipe: make an optimizer for each"
        )
    taken = dict(own[0])
    if "capturable" in taken:
        # Where it chooses no recipe it says where steps are counted, for all groups alike.
        taken["capturable"] = any(each["capturable"] for each in own)
    recipe = algorithm.recipe(asked[0])
    return dataclasses.replace(given, params=params, recipe=recipe.name, values={**values, **taken})


def switches(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """The switches of torch as they describe this recipe, of those the algorithm has; checkpoints carry them."""
    said: dict[str, Any] = {"foreach": None, "fused": None}
    if recipe.name in ("fused", "cpu-fused"):
        said["fused"] = True
    elif recipe.name.startswith("for-loop"):
        said["foreach"] = False
    elif recipe.name.startswith("foreach"):
        said["foreach"] = values.get("foreach")
    said["capturable"] = recipe.name.endswith("-capturable") or bool(values.get("capturable"))
    return {name: value for name, value in said.items() if name in values}
