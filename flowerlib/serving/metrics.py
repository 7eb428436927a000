"""What `/metrics` tells Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry: dict[str, Any] = {"registry": self.registry}
        sizes = (1, 2, 4, 8, 16, 32)
        self.requests = Counter("flowerlib_requests", "POST requests answered.", ["path", "status"], **registry)
        self.seconds = Histogram("flowerlib_request_seconds", "From first byte to answer.", ["path"], **registry)
        self.batch_size = Histogram("flowerlib_batch_images", "Images in a batch.", buckets=sizes, **registry)
        self.images = Gauge("flowerlib_images_under_way", "Images decoded, waiting or in a batch.", **registry)
