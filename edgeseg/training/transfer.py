"""The network that a run starts from: a definition or a checkpoint, with the dataset's classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgeseg.errors import EdgesegError
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.network.definition import Definition, known_names
from edgeseg.network.model import Network
from edgeseg.training.options import TrainOptions
from edgeseg.training.statistics import folded


@dataclass(frozen=True)
class Transfer:
    """How many of the weights were carried over: ``taken`` of ``all`` tensors; ``fresh`` names the others."""

    taken: int
    all: int
    fresh: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """The network to train, and the normalisation layers whose statistics its source had lost."""

    network: Network
    folded: tuple[str, ...]


def start_network(options: TrainOptions, names: tuple[str, ...]) -> Start:
    """The network to train: ``model`` with the dataset's classes, its own weights or those of ``pretrained`` where they fit.

    Raises:
        EdgesegError: no such file, or not one weight fits.
    """
    source = load_checkpoint(options.model, seed=options.seed)
    if options.task not in (None, source.task):
        what = f"task={options.task}, and {options.model} is made to {source.task}"
        raise EdgesegError(what, hint=f"Leave task out, or choose another model: {known_names('.yaml')}")
    given = load_checkpoint(options.pretrained) if options.pretrained else source
    if options.qat and source.names == names and not options.pretrained:
        return Start(source, ())
    given = given.unfuse() if given.fused else given
    network = with_classes(source.definition, names, options.seed)
    transfer = carry_over(given, network)
    if not transfer.taken:
        raise EdgesegError("not one of its weights fits the model", path=options.pretrained or options.model)
    mine = {*transfer.fresh, *fresh_tensors(given)}
    return Start(network, tuple(n for n in folded(given) if f"{n}.weight" not in mine))


def fresh_tensors(network: Network) -> tuple[str, ...]:
    """Tensors of a network that were never trained: all of a definition's, else what its ``info`` lists."""
    if network.info.get("origin") == "fresh":
        return tuple(network.state_dict())
    return tuple(network.info.get("fresh", ()))


def load_into(network: Network, other: Network) -> Transfer:
    """Carry the weights of ``other`` into ``network``, as training from ``other`` would, in place.

    A network that held nothing trained takes over ``info`` too; ``info["fresh"]`` lists what is still untrained. Names come
    along where everything fitted.
    """
    before = set(fresh_tensors(network))
    other = other.unfuse() if other.fused else other
    transfer = carry_over(other, network)
    left, theirs = set(transfer.fresh), set(fresh_tensors(other))
    fresh = [k for k in network.state_dict() if (k in before if k in left else k in theirs)]
    info = dict(other.info if network.info.get("origin") == "fresh" else network.info)
    info.pop("fresh", None)
    network.info = {**info, **({"fresh": fresh} if fresh else {})}
    if not left and network.nc == other.nc:
        network.names = other.names
    return transfer


def with_classes(definition: Definition, names: tuple[str, ...], seed: int) -> Network:
    """A fresh network of this definition for other classes; torch's global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(definition.with_classes(len(names)), names)


@torch.no_grad()
def carry_over(source: Network, target: Network) -> Transfer:
    """Copy all weights that fit into ``target``.

    The last score layers are copied class by class where both networks have a class of the same name, else where the
    number of classes is the same. The other layers of the score branch are carried over whenever their shapes agree.
    """
    weights, mine = source.state_dict(), target.state_dict()
    finals = {f"head.score.{i}.out.{kind}" for i in range(len(target.strides)) for kind in ("weight", "bias")}
    known = {name: i for i, name in enumerate(source.names)}
    pairs = [(i, known[name]) for i, name in enumerate(target.names) if name in known]
    if not pairs and source.nc == target.nc:
        pairs = [(i, i) for i in range(target.nc)]
    fresh = []
    for key, value in mine.items():
        other = weights.get(key)
        if other is None:
            fresh.append(key)
        elif key in finals and other.shape[1:] == value.shape[1:]:
            for here, there in pairs:
                value[here].copy_(other[there])
            if len(pairs) < target.nc:
                fresh.append(key)
        elif other.shape == value.shape:
            value.copy_(other)
        else:
            fresh.append(key)
    return Transfer(len(mine) - len(fresh), len(mine), tuple(fresh))
