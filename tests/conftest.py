"""What every test shares."""

from hypothesis import HealthCheck, settings

# A busy machine makes inputs slowly and runs slowly; neither says anything about the code.
settings.register_profile("lorafit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lorafit")
