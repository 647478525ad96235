"""Style transfer by whitening and colouring: a sampler for metricwatch, and the losses to train its decoders with.

Importing this costs nothing; `encoder`, `decoder`, `wct`, `stylise`, `losses` and `pretrained` import torch and know
nothing of metricwatch, `sampler` is the plugin.
"""

from __future__ import annotations
