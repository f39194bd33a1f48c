"""What things cost; on a card, what they come to."""

import time

BEGAN = time.monotonic()  # before torch is imported, which takes seconds
