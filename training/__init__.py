"""The style-based GAN: networks, losses, data, and the loop that trains them."""

import os

# Read once, when torch loads its thread pool. By default waiting threads spin, which on a machine whose cores other
# work is using makes a step on the CPU tens of times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
