"""What shall happen in the demo: how long the training is, when it saves, and when its accident happens."""

from __future__ import annotations

from dataclasses import dataclass

# The accident comes when three quarters of the checkpoints are saved.
_SOUND_SHARE = 0.75
# What a rule across five evaluations needs to have seen before, and what shows that it stays broken.
FEWEST_CHECKPOINTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A training with its accident. contents is the number of content pictures, seconds the least time a step takes."""

    checkpoints: int
    save_every: int
    contents: int
    seconds: float
    seed: int

    @property
    def last_step(self) -> int:
        return self.checkpoints * self.save_every

    @property
    def steps(self) -> list[int]:
        """The steps that are saved."""
        return list(range(self.save_every, self.last_step + 1, self.save_every))

    @property
    def accident_at(self) -> int:
        """The step at which the learning rate goes wrong: just after a checkpoint was saved."""
        return int(self.checkpoints * _SOUND_SHARE) * self.save_every + 1

    @property
    def breaks_at(self) -> int:
        """The first checkpoint that the accident shows in."""
        return self.accident_at - 1 + self.save_every
