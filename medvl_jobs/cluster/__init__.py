"""cluster: Kubernetes as the coordinator sees it. The only import of ``kubernetes`` and ``kubeflow``."""
