# SPDX-License-Identifier: Apache-2.0
"""Where the ops of a program begin: at the calls of its modules, forward and backward, and at parts of the optimizer.

PyTorch's global module hooks and tensor hooks tell; the modules themselves are not touched, so that copying, saving
and compiling them is as before. Everything from one boundary to the next is one op: a residual addition belongs to the
module before it.
"""

import contextlib
import fnmatch
import functools
import types
import warnings
import weakref

import torch
from torch.nn.modules import module as hooks

# Modules with parts that are not called as modules, or not always: one op each.
_WHOLE = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer, torch.jit.ScriptModule)
# Optimizers whose step treats each parameter by itself, so that a step over some of them and then over the others is
# the same to the bit.
_BY_PARAMETER = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad,
                 torch.optim.Adadelta, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam)
# Elements and parameters that one part of an optimizer's step is for, at most: some 0.5 ms.
_PART = {"cpu": (50_000, 8), "cuda": (50_000_000, 64)}


def _is_whole(module):
    """True for a module that is one op by itself."""
    if isinstance(module, torch.nn.TransformerEncoderLayer):
        # In training its parts are called one by one; in inference a fused path may be taken.
        return not module.training
    return isinstance(module, _WHOLE) or hasattr(module, "_orig_mod")  # what torch.compile returns


def _covered(module, chosen):
    """Modules below those that are chosen as a whole."""
    inner = set()
    for path, part in module.named_modules():
        if path in chosen and _is_whole(part):
            inner.update(f"{path}.{below}" if path else below for below, _ in part.named_modules() if below)
    return inner


def choose(module, split=None):
    """Returns path -> module for the ops of module.

    split: None: every leaf; a list of patterns ("layers.*"): the modules whose path matches one; a function (path,
    module) -> bool. ValueError if nothing matches.
    """
    parts = list(module.named_modules())
    if split is None:
        whole = {path: part for path, part in parts if _is_whole(part)}
        leaves = {path: part for path, part in parts if not list(part.children())}
        leaves.update(whole)
        below = _covered(module, leaves)
        return {path: part for path, part in leaves.items() if path not in below}
    if callable(split):
        chosen = {path: part for path, part in parts if split(path, part)}
    else:
        patterns = [split] if isinstance(split, str) else list(split)
        chosen = {path: part for path, part in parts if any(fnmatch.fnmatchcase(path, p) for p in patterns)}
    if not chosen:
        names = ", ".join(path for path, _ in parts[1:9]) or "none: it has no parts"
        raise ValueError(f"split={split!r} matches no part of {type(module).__name__}; parts are {names}")
    return chosen


class Ops:
    """Calls boundary(name) where an op begins, while entered.

    Without module every leaf module that is called is an op, named by its class and the order of first calls.
    """

    def __init__(self, boundary, module=None, split=None):
        self._boundary = boundary
        self._names = weakref.WeakKeyDictionary()
        self._others = module is None or split is None
        self._inside = weakref.WeakSet()  # parts of a module that is one op
        self._count = {}
        self._handles = []
        self._again = False
        if module is None:
            return
        chosen = choose(module, split)
        for path, part in chosen.items():
            name = path or type(module).__name__
            self._names[part] = (name, name + ":backward")
        self._inside.update(part for part in module.modules() if part not in self._names)
        if len(chosen) == 1 and split is None:
            warnings.warn(f"pipefill: {type(module).__name__} has no parts that could be ops: a pass is one op, and needs "
                          "a bubble for itself", RuntimeWarning, stacklevel=5)

    def __enter__(self):
        self._handles = [hooks.register_module_forward_pre_hook(self._before),
                         hooks.register_module_forward_hook(self._after)]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()

    @contextlib.contextmanager
    def again(self):
        """Within the context a forward pass is one that is computed again for its backward pass."""
        before, self._again = self._again, True
        try:
            yield
        finally:
            self._again = before

    def _name(self, module):
        """(forward, backward) of an op's names, None for a module that is none."""
        names = self._names.get(module)
        if names is not None or not self._others or module in self._inside:
            return names
        if list(module.children()) and not _is_whole(module):
            return None
        if _is_whole(module):
            self._inside.update(part for part in module.modules() if part is not module)
        kind = type(module).__name__
        number = self._count[kind] = self._count.get(kind, 0) + 1
        name = f"{kind}#{number}"
        names = self._names[module] = (name, name + ":backward")
        return names

    def _before(self, module, _arguments):
        names = self._name(module)
        if names is not None:
            self._boundary(names[0] + ":again" if self._again else names[0])

    def _after(self, module, _arguments, output):
        names = self._names.get(module)
        if names is None or self._again or not torch.is_grad_enabled():
            return
        tensor = _first_with_grad(output)
        if tensor is not None:
            # The gradient as it comes here: the module's own backward is next.
            tensor.register_hook(functools.partial(_backward, self._boundary, names[1]))


def _backward(boundary, name, _gradient):
    boundary(name)


def _first_with_grad(output):
    """The first tensor of an output that a gradient will come to."""
    if isinstance(output, torch.Tensor):
        return output if output.requires_grad else None
    if isinstance(output, dict):
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        output = vars(output).values() if hasattr(output, "__dict__") else ()
    for part in output:
        tensor = _first_with_grad(part) if isinstance(part, (torch.Tensor, dict, tuple, list)) else None
        if tensor is not None:
            return tensor
    return None


def parts_of(groups, kind="cpu"):
    """Parameters in parts of some size: a list of parts, each with a list for each of the optimizer's groups."""
    parts, size, count = [], 0, 0
    most_elements, most = _PART[kind]
    for number, group in enumerate(groups):
        for parameter in group:
            if not parts or size + parameter.numel() > most_elements or count == most:
                parts.append([[] for _ in groups])
                size = count = 0
            parts[-1][number].append(parameter)
            size, count = size + parameter.numel(), count + 1
    return parts


@contextlib.contextmanager
def optimizer_ops(optimizer, boundary, kind="cpu"):
    """Makes parts of optimizer.step() ops, within the context; an optimizer that is not known to allow it is one op."""
    straight = optimizer.step
    own = "step" in vars(optimizer)
    by_parameter = type(optimizer) in _BY_PARAMETER

    @functools.wraps(straight)
    def step(self, closure=None):
        if closure is not None or not by_parameter:
            boundary("optimizer")
            return straight() if closure is None else straight(closure)
        groups = self.param_groups
        whole = [group["params"] for group in groups]
        for number, part in enumerate(parts_of(whole, kind)):
            boundary(f"optimizer.{number}")
            try:
                for group, parameters in zip(groups, part):
                    group["params"] = parameters
                straight()
            finally:
                for group, parameters in zip(groups, whole):
                    group["params"] = parameters
        return None

    # A method, since learning rate schedulers look for what it is bound to.
    optimizer.step = ours = types.MethodType(step, optimizer)
    try:
        yield
    finally:
        if vars(optimizer).get("step") is ours:
            if own:
                optimizer.step = straight
            else:
                del optimizer.step
