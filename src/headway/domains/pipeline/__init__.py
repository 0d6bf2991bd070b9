"""The default domain: a stage is a model on replicas that pull batches from one central queue."""

from headway.domains.pipeline.domain import DOMAIN, PipelineDomain

__all__ = ["DOMAIN", "PipelineDomain"]
