"""The gradients of a phase: computed as it stands, or recorded once, compiled, and replayed as one CUDA graph.

R1 differentiates twice, which `torch.compile` does not follow. So the whole phase, both differentiations in it, is
recorded as one graph of plain operations (`make_fx`), and that is compiled: no autograd is left at run time.
What was compiled is kept in TORCHINDUCTOR_CACHE_DIR for the next process that needs the same.
Here is no optimizer and no loss; what the phases compute is in `training.loss`.

    gradients = GradientFunction(DiscriminatorPhase(generator, discriminator, 10.0), discriminator, compiled=True)
    by_parameter, terms = gradients(pixels, fade, *latents)
"""

from __future__ import annotations

import copyreg
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

log = logging.getLogger(__name__)

OPTIONS = {
    "realize_reads_threshold": 8,
    "realize_opcount_threshold": 64,
    "triton.autotune_pointwise": False,
}
"""Of the compiler: compute an intermediate again for longer than it would by itself before storing it, since memory
is what a layer's epilogue waits for (256 px on an H200: generator's phase 5% faster, a third less memory). And try no
configurations of pointwise kernels: the large ones are in `training.kernels`, and trying took 8 s of a start."""

TensorFunction = Callable[..., Sequence[Tensor]]


def _memory_format(name: str) -> torch.memory_format:
    found: torch.memory_format = getattr(torch, name.removeprefix("torch."))
    return found


# The compiler's cache goes by pickles, and pickle looks for a memory format in every module that there is, so that
# processes which imported modules in another order would not find what each other compiled.
copyreg.pickle(torch.memory_format, lambda format: (_memory_format, (str(format),)))


class GradientFunction:
    """Gradients of a phase's loss in the parameters of one of its networks, and the phase's other outputs."""

    def __init__(self, phase: nn.Module, network: nn.Module, *, compiled: bool) -> None:
        self._phase = phase
        self._compiled = compiled
        self._tensors = dict(phase.named_parameters())
        trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        self._trained = [name for name, tensor in self._tensors.items() if id(tensor) in trained]
        self._used: list[nn.Parameter] = []
        self._ready: dict[tuple[Any, ...], TensorFunction] = {}

    def __call__(self, *inputs: Tensor) -> tuple[dict[nn.Parameter, Tensor], Sequence[Tensor]]:
        """Gradients by parameter, of those the loss depends on, and what the phase gives beside the loss.

        Compiled, both are overwritten by the next call.
        """
        function: TensorFunction = self._plain
        if self._compiled:
            key = (self._phase.form, *(tensor.shape for tensor in inputs))
            if key not in self._ready:
                self._ready.clear()  # a graph holds its memory
                self._ready[key] = self._prepared(inputs)
            function = self._ready[key]
        outputs = function(*inputs)
        gradients = dict(zip(self._used, outputs, strict=False))
        return gradients, outputs[len(gradients) :]

    def _plain(self, *inputs: Tensor) -> list[Tensor]:
        """The gradients of the parameters in use (noted in `_used`), then the phase's other outputs."""
        return self._outputs(list(self._tensors.values()), inputs)

    def _outputs(self, tensors: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        values = {name: tensor.detach() for name, tensor in zip(self._tensors, tensors, strict=True)}
        trained = [values[name].requires_grad_() for name in self._trained]
        loss, *others = functional_call(self._phase, values, tuple(inputs))
        # None where lod hides a layer.
        found = dict(zip(self._trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True))
        gradients = {name: _laid_out(g, values[name]) for name, g in found.items() if g is not None}
        self._used = [self._tensors[name] for name in gradients]
        return [*gradients.values(), *(other.detach() for other in others)]

    def record(self, inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
        """The phase and its differentiation as one graph: a function of all its parameters and such inputs."""
        from torch.fx.experimental.proxy_tensor import make_fx

        num = len(self._tensors)

        def gradients(*tensors: Tensor) -> list[Tensor]:
            return self._outputs(tensors[:num], tensors[num:])

        parameters = (parameter.detach() for parameter in self._tensors.values())
        graph = make_fx(gradients, tracing_mode="fake")(*parameters, *inputs)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph

    def compile(self, inputs: Sequence[Tensor]) -> TensorFunction:
        """The compiled function of inputs like these, from the cache where it is there."""
        return self._of_graph(self.record(inputs), inputs)

    def _of_graph(self, graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> TensorFunction:
        begun = time.perf_counter()
        with _one_at_a_time(graph, inputs):
            compiled = self._compiled_graph(graph, inputs)
        log.info("compiled %s in %.0f s", type(self._phase).__name__, time.perf_counter() - begun)
        return partial(compiled, *self._tensors.values())

    def _compiled_graph(self, graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        from torch._guards import TracingContext, tracing
        from torch._inductor import compile as compile_graph
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        # Without an environment of symbols, though no shape here is one, the compiler keeps nothing in its cache. And
        # tensors that are not fake yet would have symbols for shapes, slower and named after how they lie in memory.
        mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
        with torch.no_grad(), tracing(TracingContext(mode)):
            tensors = (*(parameter.detach() for parameter in self._tensors.values()), *inputs)
            given: list[Any] = [mode.from_tensor(tensor, static_shapes=True) for tensor in tensors]
            return compile_graph(graph, given, options=OPTIONS)

    def _prepared(self, inputs: Sequence[Tensor]) -> TensorFunction:
        """The compiled function of inputs like these, on a GPU as one graph of its work."""
        if inputs[0].device.type != "cuda":
            return self.compile(inputs)
        graph = self.record(inputs)
        with ThreadPoolExecutor(1) as beside:
            launched = beside.submit(launch_own, graph, inputs[0].device)
            function = self._of_graph(graph, inputs)
            launched.result()
        return Replay(function, inputs)


def launch_own(graph: torch.fx.GraphModule, device: torch.device) -> int:
    """Launch each kernel of this project that a recorded graph has, once, on zeros; how many.

    A kernel is compiled when it is first launched, by other programs than this process: so those of ours are ready when
    the compiler is done with the rest.
    """
    launched = set()
    with torch.no_grad(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for node in graph.graph.nodes:
            if node.op != "call_function" or getattr(node.target, "namespace", None) != "likeness":
                continue
            given = [a.meta["val"] if isinstance(a, torch.fx.Node) else a for a in node.args]
            kind = (node.target, *((a.dtype, a.shape) if isinstance(a, Tensor) else a for a in given))
            if kind not in launched:
                launched.add(kind)
                node.target(*(_zeros(a, device) if isinstance(a, Tensor) else a for a in given))
    return len(launched)


def _zeros(like: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device).zero_()


@contextmanager
def _one_at_a_time(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Iterator[None]:
    """Wait for any other process that is compiling the same: what it compiled is in the cache then."""
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if folder is None:
        yield
        return
    kind = repr([graph.code, *((str(x.device), str(x.dtype), tuple(x.shape)) for x in inputs)])
    lock = Path(folder) / "locks" / hashlib.sha256(kind.encode()).hexdigest()
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the strides of its parameter, as the fused Adam wants it."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)


class Replay:
    """A function of tensors whose work on the GPU is launched as one CUDA graph."""

    def __init__(self, function: TensorFunction, inputs: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        with torch.no_grad():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):  # so that kernels are chosen and loaded before the capture
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile, as NCCL's watchdog does.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """What the function gives for `inputs`, in the tensors the last call gave."""
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs
