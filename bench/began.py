"""When this process began, before anything slow to import was; without what it waited until here."""

import time

BEGAN = time.monotonic() - time.process_time()
