"""Is the driver sound, is the device suitable, does it add anything: reports, a comparison, displays."""

from skpat._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BaselineComparison": "skpat.inspection.comparison_report",
        "ComparisonPlan": "skpat.inspection.comparison_plan",
        "ComparisonRow": "skpat.inspection.comparison_report",
        "ControlMapDisplay": "skpat.inspection.control_map",
        "DeviceCheck": "skpat.inspection.findings",
        "DeviceReport": "skpat.inspection.device_report",
        "DeviceResponseDisplay": "skpat.inspection.device_response",
        "Finding": "skpat.inspection.findings",
        "GradientAlignmentDisplay": "skpat.inspection.gradient_alignment_display",
        "PlannedRow": "skpat.inspection.comparison_plan",
        "TrainingCurveDisplay": "skpat.inspection.training_curve",
        "TwinFidelityDisplay": "skpat.inspection.twin_fidelity",
        "characterize": "skpat.inspection.characterization",
        "check_device": "skpat.inspection.driver_check",
        "compare_baselines": "skpat.inspection.baseline_comparison",
        "gradient_alignment": "skpat.inspection.alignment",
        "plan_comparison": "skpat.inspection.comparison_plan",
        "shots_scorer": "skpat.inspection.fit_cost",
    },
)
