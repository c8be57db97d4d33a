"""Where facts come from: model configurations, GPUs, this machine's devices.

Every package may call it; it computes no memory, gives no advice and never imports torch or streamlit.
"""

import specs as specs  # the first import: from here on, Ctrl-C is quiet
