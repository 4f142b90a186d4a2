"""DataFrame in, plotly figure out; one function a figure."""

from ema_core.figures.agreement import confusion, scores_scatter
from ema_core.figures.colours import Style, style
from ema_core.figures.criterion import CRITERIA, MARGINS, RATES, Criterion, Measure, criterion
from ema_core.figures.curves import PENALTIES, PROBED, QUANTITIES, Quantity, curve_traces, curves_data, training_curves
from ema_core.figures.differences import MARKS, differences, differences_data, heatmap, heatmap_data, height
from ema_core.figures.forest import differs, forest, in_words
from ema_core.figures.gap import gap_scatter
from ema_core.figures.inside import inside_lines, module_map, scale_top, score_histogram, token_strip
from ema_core.figures.judges import reliability_diagram
from ema_core.figures.layout import empty_figure, enlarged
from ema_core.figures.leak import leak
from ema_core.figures.persona import separation
from ema_core.figures.smoothing import smooth
from ema_core.figures.strength import strength_curve, strength_data
from ema_core.figures.trade import DOMINATED, beaten, trade_off, trade_off_data

__all__ = [
    "CRITERIA",
    "DOMINATED",
    "MARGINS",
    "MARKS",
    "PENALTIES",
    "PROBED",
    "QUANTITIES",
    "RATES",
    "Criterion",
    "Measure",
    "Quantity",
    "Style",
    "beaten",
    "confusion",
    "criterion",
    "curve_traces",
    "curves_data",
    "differences",
    "differences_data",
    "differs",
    "empty_figure",
    "enlarged",
    "forest",
    "gap_scatter",
    "heatmap",
    "heatmap_data",
    "height",
    "in_words",
    "inside_lines",
    "leak",
    "module_map",
    "reliability_diagram",
    "scale_top",
    "score_histogram",
    "scores_scatter",
    "separation",
    "smooth",
    "strength_curve",
    "strength_data",
    "style",
    "token_strip",
    "trade_off",
    "trade_off_data",
    "training_curves",
]
