"""Resources that the local cluster's controllers know beside those that the runtime names."""

from __future__ import annotations

from kaito.runtime import manifest_resource

DAEMON_SETS = manifest_resource("apps", "v1", "DaemonSet", "daemonsets")
PERSISTENT_VOLUME_CLAIMS = manifest_resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
PERSISTENT_VOLUMES = manifest_resource("", "v1", "PersistentVolume", "persistentvolumes", namespaced=False)
