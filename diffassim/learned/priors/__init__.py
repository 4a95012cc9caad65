"""Generative priors: learned from states or trajectories, sampled, conditioned on observations, a term of a cost."""

from diffassim.learned.priors.base import NOISE_FEATURES, GenerativePrior
from diffassim.learned.priors.cost import DecodedPrior, prior_cost
from diffassim.learned.priors.diffusion import DiffusionPrior, denoising_loss
from diffassim.learned.priors.flow import FlowPrior, flow_matching_loss
from diffassim.learned.priors.posterior import Guidance, PosteriorSampler, sample_posterior
from diffassim.learned.priors.split_gibbs import SplitGibbs

__all__ = [
    "NOISE_FEATURES",
    "DecodedPrior",
    "DiffusionPrior",
    "FlowPrior",
    "GenerativePrior",
    "Guidance",
    "PosteriorSampler",
    "SplitGibbs",
    "denoising_loss",
    "flow_matching_loss",
    "prior_cost",
    "sample_posterior",
]
