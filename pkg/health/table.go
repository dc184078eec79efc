package health

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// What CSI calls the three kinds of conditions.
const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
	dataLoss     = csi.VolumeHealthErrorType_DATA_LOSS
)

// volumeTable is the only place where a fault of a volume gets its status, its reason and its
// message. docs/health.md has the same conditions.
var volumeTable = map[volume.Fault]Condition{
	volume.FaultRecordDamaged: {
		inaccessible, "RecordDamaged",
		"The volume's record cannot be read, so no new pod can use the volume. Its data may be whole: " +
			"make the record again with csi-hostpath repair.",
	},
	volume.FaultImageIncomplete: {
		dataLoss, "ImageIncomplete",
		"The volume's image is missing, or shorter than the volume. Restore a snapshot or a backup.",
	},
	volume.FaultImageDamaged: {
		inaccessible, "ImageDamaged",
		"The filesystem in the volume's image could not be mounted: it is damaged, or of another kind. " +
			"The events of the pod have the error. Repair it with fsck on the node, or restore a snapshot.",
	},
	volume.FaultGrowthFailed: {
		degraded, "GrowthFailed",
		"The volume's filesystem could not be grown to the size of the claim, and keeps its size. " +
			"The driver's log says what the node lacks. Give the node that: the driver tries again.",
	},
	volume.FaultSizeNotEnforced: {
		degraded, "SizeNotEnforced",
		"The volume can grow beyond its size, although its pool enforces sizes. " +
			"The log of the driver's start says why. Clone the volume, or copy its content to a new one.",
	},
	volume.FaultOvercharged: {
		degraded, "Overcharged",
		"The volume is full, and more counts for it than its files. Find files of other volumes with " +
			"csi-hostpath recharge, and deleted files that are open with lsof +L1.",
	},
	volume.FaultDataMissing: {
		dataLoss, "DataMissing",
		"The volume's record is there, and its data is missing or of another type. " +
			"Restore a snapshot or a backup.",
	},
	volume.FaultNotMounted: {
		inaccessible, "NotMounted",
		"The volume is not mounted where its pod should see it: somebody has unmounted it, or it could " +
			"not be mounted. Delete the pod, so that the volume is mounted again.",
	},
	volume.FaultCovered: {
		inaccessible, "Covered",
		"Something else is mounted over the volume. Unmount that on the node, or delete the pod.",
	},
	volume.FaultReadOnly: {
		degraded, "FilesystemReadOnly",
		"The filesystem in the volume's image has become read-only. Look into the node's kernel log. " +
			"Delete all pods that use the volume: the filesystem is checked when it is mounted again.",
	},
	volume.FaultFilesystemFailed: {
		inaccessible, "FilesystemFailed",
		"The volume's filesystem gives I/O errors, or its server (FUSE, NFS) has gone. Look into the " +
			"node's kernel log. Delete all pods that use the volume, so that it is mounted again.",
	},
	volume.FaultGitStale: {
		degraded, "GitStale",
		"The git repository could not be fetched, and pods have an older commit. Look whether the " +
			"server answers and accepts the volume's Secret. The events of the pods say why.",
	},
	volume.FaultHangs: {
		inaccessible, "FilesystemHangs",
		"The volume's filesystem does not answer. Restart its server (FUSE, NFS), or look into the " +
			"node's kernel log.",
	},
}

// poolTable is the same for a pool that cannot be used. The name of the pool comes before the
// message. What is wrong with a pool is wrong with all its volumes.
var poolTable = map[volume.Reason]Condition{
	volume.ReasonAbsent: {
		inaccessible, "PoolAbsent",
		"nothing is at its path. Mount its disk; the driver finds it within seconds.",
	},
	volume.ReasonNotMounted: {
		inaccessible, "PoolNotMounted",
		"no disk is mounted at its path. Mount its disk; the driver finds it within seconds.",
	},
	volume.ReasonDisplaced: {
		inaccessible, "PoolDisplaced",
		"its disk is no longer at its path. Mount it there again, or unmount what covers it.",
	},
	volume.ReasonDamaged: {
		inaccessible, "PoolDamaged",
		"pool.json is missing or cannot be read. Put it back (docs/operations.md).",
	},
	volume.ReasonDiskFailed: {
		inaccessible, "DiskFailed",
		"its disk gives I/O errors. Look into the node's kernel log, and repair or replace the disk.",
	},
	volume.ReasonReadOnly: {
		degraded, "PoolReadOnly",
		"its filesystem is read-only: pods can read, and cannot write. Look into the node's kernel log " +
			"for disk errors, and remount the filesystem.",
	},
	volume.ReasonHangs: {
		inaccessible, "DiskHangs",
		"its filesystem, or one on the way to it, does not answer. Restart its server (FUSE, NFS), or " +
			"look into the node's kernel log.",
	},
	volume.ReasonDuplicate: {
		inaccessible, "PoolDuplicate",
		"another pool of the node has the same UUID, and neither is used. Take the copy out of the " +
			"configuration.",
	},
	volume.ReasonOverlaps: {
		inaccessible, "PoolOverlaps",
		"its path leads to another pool, or to kubelet's directory. Give it a directory of its own.",
	},
	volume.ReasonForeign: {
		inaccessible, "PoolForeign",
		"its directory holds something else. Mount the pool's disk there.",
	},
	volume.ReasonInUse: {
		inaccessible, "PoolInUse",
		"another process has it open. End that process; the driver then opens the pool.",
	},
	volume.ReasonNewer: {
		inaccessible, "PoolNewer",
		"a newer version of the driver has written it. Install that version.",
	},
	volume.ReasonNoQuota: {
		inaccessible, "PoolNoQuota",
		"its filesystem has no quotas, and the configuration requires them. Mount it with quotas " +
			"(docs/sizes.md).",
	},
	volume.ReasonOther: {
		inaccessible, "PoolUnusable", "it cannot be used. The driver's log says why.",
	},
}

// nodeTable is the same for a node that can have no volumes. Pods that run keep theirs.
var nodeTable = map[volume.Reason]Condition{
	volume.ReasonMayNotMount: {
		inaccessible, "DriverMayNotMount",
		"The driver may not mount. Install the chart's DaemonSet unchanged: its container is privileged.",
	},
	volume.ReasonKubeletAbsent: {
		inaccessible, "KubeletDirectoryAbsent",
		"Kubelet's directory is not where the driver looks. Set kubeletDir in the chart.",
	},
	volume.ReasonKubeletHangs: {
		inaccessible, "KubeletDirectoryHangs",
		"The filesystem of kubelet's directory does not answer. Look into the node's kernel log.",
	},
	volume.ReasonKubeletLink: {
		inaccessible, "KubeletDirectoryLink",
		"A directory in kubelet's directory is a symbolic link, and nothing is mounted behind a link. " +
			"Replace it with a directory, and mount the other directory there.",
	},
	volume.ReasonKubeletPrivate: {
		inaccessible, "KubeletDirectoryPrivate",
		"What the driver mounts does not reach the node's pods. Mount kubelet's directory as shared.",
	},
}
