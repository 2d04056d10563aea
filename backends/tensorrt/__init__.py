"""The target `tensorrt`, and all that it shares with `tensorrt-rtx`."""
