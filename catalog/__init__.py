"""Where facts come from: shipped assets, a local config.json, the Hub, and the devices of this machine."""
