"""The sensor runtime: sound in, labelled events out over MQTT."""

__version__ = "0.1.0"
