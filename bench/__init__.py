"""What training costs. Imported before anything slow, so that the clock counts that too."""

import time

BEGAN = time.monotonic() - time.process_time()  # of this process, without what it waited until here
