"""The network around the device: encoders, layers, readouts, and the one ``forward`` that numpy and torch share."""
