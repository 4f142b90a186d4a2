"""DataFrame in, plotly figure out; one function a figure."""

from ema_core.figures.agreement import confusion, scores_scatter
from ema_core.figures.colours import Style, style
from ema_core.figures.curves import PROBED, QUANTITIES, Quantity, curve_traces, training_curves
from ema_core.figures.gap import gap_scatter
from ema_core.figures.judges import reliability_diagram
from ema_core.figures.layout import empty_figure, enlarged
from ema_core.figures.leak import leak
from ema_core.figures.persona import separation
from ema_core.figures.smoothing import smooth
from ema_core.figures.strength import CRITERIA, strength_curve
from ema_core.figures.trade import trade_off

__all__ = [
    "CRITERIA",
    "PROBED",
    "QUANTITIES",
    "Quantity",
    "Style",
    "confusion",
    "curve_traces",
    "empty_figure",
    "enlarged",
    "gap_scatter",
    "leak",
    "reliability_diagram",
    "scores_scatter",
    "separation",
    "smooth",
    "strength_curve",
    "style",
    "trade_off",
    "training_curves",
]
