"""The sampler `torch_export`: generators saved by torch.export.save (.pt2), which need no code of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metricwatch.api import Checkpoint, ConfigError, InputError

from .latents import LatentNetwork, LatentOptions, LatentSampler, in_portions
from .outputs import is_no_room, last_line

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchExportOptions(LatentOptions):
    """trusted: that only people you trust can write these checkpoints, as torch's reader may run code in them."""

    trusted: bool = False

    def __post_init__(self) -> None:
        # Not super(): slots make another class of this one.
        LatentOptions.__post_init__(self)
        if not self.trusted:
            raise ConfigError(
                "torch can be made to run code by a .pt2 file; write trusted: true where only your own job writes "
                "them, or save TorchScript or safetensors"
            )


class TorchExportSampler(LatentSampler):
    """Runs an exported program of one input, the noise.

    torch.export.load unpickles and evaluates expressions (torch's own documentation says not to load what one does not
    trust), so that the option `trusted` must be given. A program that was exported for certain batch sizes alone gets
    these: requests are cut and filled up.
    """

    Options = TorchExportOptions

    def load(self, checkpoint: Checkpoint, device: str) -> LatentNetwork:
        import torch
        from torch.export.passes import move_to_device_pass

        name = checkpoint.name or checkpoint.path
        if (kind := checkpoint.kind()) != "torch_export":
            raise InputError(
                f"{name} is no program of torch.export.save, but of the kind {kind!r}; weights are read by the "
                "samplers `safetensors` and `python`, TorchScript programs by `torchscript`"
            )
        try:
            program = move_to_device_pass(torch.export.load(checkpoint.path), device)
        # The reader fails in any way on a file that is not its own.
        except Exception as error:
            if is_no_room(error):
                raise
            raise InputError(
                f"{name} is damaged, or no program of torch.export.save for this version of torch "
                f"({torch.__version__}): {last_line(error)}"
            ) from error
        least, most = self._batches(program, name)
        network: Any = program.module()
        return in_portions(network, least, most)

    def _batches(self, program: ExportedProgram, name: str) -> tuple[int, int | None]:
        """The smallest and the largest batch that it takes. Raises InputError when it takes other inputs."""
        inputs = program.graph_signature.user_inputs
        if len(inputs) != 1:
            raise InputError(f"{name} takes {len(inputs)} inputs; a program that makes pictures of noise takes one")
        node = next(node for node in program.graph.nodes if node.name == inputs[0])
        shape = list(node.meta["val"].shape)
        wanted = list(self.options.latent)
        if len(shape) != len(wanted) + 1 or any(
            isinstance(own, int) and own != ours for own, ours in zip(shape[1:], wanted, strict=True)
        ):
            raise InputError(f"{name} takes noise of shape {['N', *shape[1:]]}; the option latent says {wanted}")
        if isinstance(shape[0], int):
            return shape[0], shape[0]
        bounds = program.range_constraints.get(shape[0].node.expr)
        if bounds is None:
            return 1, None
        # Without a bound it is an infinity of sympy's, which is no int.
        finite = [int(bound) if bound.is_Integer else None for bound in (bounds.lower, bounds.upper)]
        return max(finite[0] or 1, 1), finite[1]
