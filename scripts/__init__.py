"""What the Makefile calls: set-up, server start and maintenance."""

import specs as specs  # the first import: from here on, Ctrl-C is quiet
