"""The physical world: the contract of a device and one file per simulated system."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AnalogCircuit": "skpat.devices.analog_circuit",
        "CoupledOscillators": "skpat.devices.coupled_oscillators",
        "Device": "skpat.devices.base",
        "Drifting": "skpat.devices.drifting",
        "FrozenModel": "skpat.devices.frozen_model",
        "FunctionDevice": "skpat.devices.function",
        "IdentityDevice": "skpat.devices.identity",
        "MachZehnderMesh": "skpat.devices.mach_zehnder_mesh",
        "NeuralTissue": "skpat.devices.neural_tissue",
        "Noisy": "skpat.devices.noisy",
        "OscillatingPlate": "skpat.devices.oscillating_plate",
        "Quantized": "skpat.devices.quantized",
        "SecondHarmonicLaser": "skpat.devices.second_harmonic_laser",
        "SimulatedDevice": "skpat.devices.simulated",
        "embed_sentences": "skpat.devices.sentence_encoder",
        "sentence_device": "skpat.devices.sentence_encoder",
        "as_device": "skpat.devices.function",
    },
)
