"""PyTorch's optimizers: fused, foreach, and a loop over the tensors."""

import importlib
from typing import Any, ClassVar

from instep.commands.bench.cases import CHAIN, Case, arrays
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender
from instep.graph.dtypes import is_complex

#: Optimizer -> the class in torch.optim, and its options.
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.01}),
    "Momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}),
    "Nesterov": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "AdaGrad": ("Adagrad", {"lr": 0.01}),
    "RMSProp": ("RMSprop", {"lr": 0.01}),
    "AdaDelta": ("Adadelta", {}),
    "Adam": ("Adam", {}),
    "AdamW": ("AdamW", {}),
    "AMSGrad": ("Adam", {"amsgrad": True}),
    "AdaMax": ("Adamax", {}),
    "NAdam": ("NAdam", {}),
    "RAdam": ("RAdam", {}),
    "Rprop": ("Rprop", {}),
    CHAIN: ("AdamW", {}),
}
#: What torch can do in one kernel for all tensors, by the library of the arrays.
WITH_FUSED = {
    "numpy": ("SGD", "Adagrad", "Adam", "AdamW"),
    "cupy": ("SGD", "Adam", "AdamW"),
}


class _Torch(Contender):
    """torch.optim with one way of going through the tensors.

    Parts of complex numbers are numbers of their own there: Adam moves 56 bytes of complex64, not
    48.
    """

    package = "torch"
    ways: ClassVar[dict[str, bool]]

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in CLASSES:
            return f"torch.optim has no {case.optimizer}"
        if "fused" in self.ways and CLASSES[case.optimizer][0] not in WITH_FUSED[case.backend]:
            name = CLASSES[case.optimizer][0]
            return f"torch.optim.{name} has no fused implementation beside {case.backend}"
        if "fused" in self.ways and is_complex(case.dtype):
            return f"torch has no fused implementation for {case.dtype}"
        if case.dtype in ("float16", "bfloat16"):
            return f"torch keeps the state of {case.dtype} parameters in {case.dtype}"
        torch = importlib.import_module("torch")
        if case.backend == "cupy" and not torch.cuda.is_available():
            return "this torch sees no CUDA device"
        return None

    def prepare(self, case: Case) -> Step:
        torch = importlib.import_module("torch")
        if case.backend == "numpy":
            torch.set_num_threads(case.threads)
        device = "cuda" if case.backend == "cupy" else "cpu"
        # Copies, so that they lie where torch's allocator puts them: on a cache line.
        params = [torch.tensor(array, device=device).requires_grad_() for array in arrays(case, 0)]
        for w, gradient in zip(params, arrays(case, 1), strict=True):
            w.grad = torch.tensor(gradient, device=device)
        name, options = CLASSES[case.optimizer]
        step: Step = getattr(torch.optim, name)(params, **options, **self.ways).step
        return step if case.optimizer != CHAIN else self._chained(torch, params, step)

    def _chained(self, torch: Any, params: list[Any], step: Step) -> Step:
        """Put clipping before a step, and an average of the parameters after it."""
        clip = torch.nn.utils.clip_grad_norm_
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
        averages = [w.detach().clone() for w in params]
        plain = [w.detach() for w in params]
        foreach = "fused" in self.ways or self.ways["foreach"]

        def clipped_and_averaged() -> None:
            clip(params, 1.0, foreach=foreach)
            step()
            average(averages, plain, None)

        return clipped_and_averaged


class Fused(_Torch):
    """One kernel for all tensors."""

    name = "torch fused"
    ways: ClassVar = {"fused": True}


class Foreach(_Torch):
    """One operation at a time, for all tensors together."""

    name = "torch foreach"
    copies = 6
    ways: ClassVar = {"foreach": True}


class Loop(_Torch):
    """One operation at a time, one tensor at a time: what torch does on a CPU if not asked."""

    name = "torch loop"
    copies = 6
    ways: ClassVar = {"foreach": False}
