"""medvl: fine-tune a vision-language model on medical images as batch jobs, and defend the result."""

__version__ = "0.1.0"
