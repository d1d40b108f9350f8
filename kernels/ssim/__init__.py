"""Mean structural similarity of images, as a loss: one kernel forward and one back."""

from kernels.ssim.api import mean_ssim
from kernels.ssim.reference import C1, C2, WINDOW, gaussian_window

__all__ = ["C1", "C2", "WINDOW", "gaussian_window", "mean_ssim"]
