package statuslink

import (
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/link/linkpb"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

func secondsTo(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// lastSecond is the end of the year 9999: JSON has no time after it (RFC 3339).
const lastSecond = 253402300799

// secondsFrom is the zero time for what no node can mean.
func secondsFrom(s int64) time.Time {
	if s <= 0 || s > lastSecond {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

func missingTo(m status.Missing) *linkpb.MissingStatus {
	return &linkpb.MissingStatus{Pool: m.Pool, Reason: m.Reason}
}

func sampleTo(s status.Sample) *linkpb.UseSample {
	return &linkpb.UseSample{UnixSeconds: secondsTo(s.Time), Bytes: s.Bytes}
}

func sampleFrom(s *linkpb.UseSample) status.Sample {
	return status.Sample{Time: secondsFrom(s.GetUnixSeconds()), Bytes: s.GetBytes()}
}

func objectTo(o *status.ObjectName) *linkpb.StatusObject {
	if o == nil {
		return nil
	}
	return &linkpb.StatusObject{Namespace: o.Namespace, Name: o.Name}
}

func objectFrom(o *linkpb.StatusObject) *status.ObjectName {
	if o == nil {
		return nil
	}
	return &status.ObjectName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func poolTo(p status.Pool) *linkpb.PoolStatus {
	return &linkpb.PoolStatus{
		Name: p.Name, Id: p.ID, IsDefault: p.IsDefault, Optional: p.Optional, Ready: p.Ready,
		Reason: p.Reason, Filesystem: p.Filesystem, EnforcesSizes: p.EnforcesSizes, NoExec: p.NoExec,
		SizeBytes: p.SizeBytes, UsedBytes: p.UsedBytes, FreeBytes: p.FreeBytes,
		AvailableBytes: p.AvailableBytes, CommittedBytes: p.CommittedBytes,
		SnapshotBytes: p.SnapshotBytes, TrashBytes: p.TrashBytes, Volumes: p.Volumes,
		Snapshots: p.Snapshots, TrashEntries: p.TrashEntries, PurgesFailing: p.PurgesFailing,
		Copies: p.Copies, UnhealthyVolumes: p.UnhealthyVolumes, Faults: p.Faults,
		Use: mapped(p.Use, sampleTo),
	}
}

func poolFrom(p *linkpb.PoolStatus) status.Pool {
	pool := status.Pool{
		Name: p.GetName(), ID: p.GetId(), IsDefault: p.GetIsDefault(), Optional: p.GetOptional(),
		Ready: p.GetReady(), Reason: p.GetReason(), Filesystem: p.GetFilesystem(),
		EnforcesSizes: p.GetEnforcesSizes(), NoExec: p.GetNoExec(), SizeBytes: p.GetSizeBytes(),
		UsedBytes: p.GetUsedBytes(), FreeBytes: p.GetFreeBytes(),
		AvailableBytes: p.GetAvailableBytes(), CommittedBytes: p.GetCommittedBytes(),
		SnapshotBytes: p.GetSnapshotBytes(), TrashBytes: p.GetTrashBytes(), Volumes: p.GetVolumes(),
		Snapshots: p.GetSnapshots(), TrashEntries: p.GetTrashEntries(),
		PurgesFailing: p.GetPurgesFailing(), Copies: p.GetCopies(),
		UnhealthyVolumes: p.GetUnhealthyVolumes(), Faults: p.GetFaults(),
		Use: mapped(p.GetUse(), sampleFrom),
	}
	pool.GrowthBytesPerDay = status.Growth(pool.Use)
	return pool
}

func volumeTo(v status.Volume) *linkpb.VolumeStatus {
	return &linkpb.VolumeStatus{
		Id: v.ID, Pool: v.Pool, Name: v.Name, Claim: objectTo(v.Claim), IsInline: v.Inline,
		Pods: mapped(v.Pods, podTo), Kind: string(v.Kind), CapacityBytes: v.CapacityBytes,
		UsedBytes: v.UsedBytes, UsedInodes: v.UsedInodes, EnforcesSize: v.EnforcesSize,
		CreatedSeconds: secondsTo(v.Created), Source: v.Source, Damaged: v.Damaged, Faults: v.Faults,
		TrashRetentionSeconds: v.TrashRetentionSeconds, GrowthBytesPerDay: v.GrowthBytesPerDay,
		Use: mapped(v.Use, sampleTo), Snapshots: mapped(v.Snapshots, snapshotTo), Git: gitTo(v.Git),
	}
}

func volumeFrom(v *linkpb.VolumeStatus) status.Volume {
	return status.Volume{
		ID: v.GetId(), Pool: v.GetPool(), Name: v.GetName(), Claim: objectFrom(v.GetClaim()),
		Inline: v.GetIsInline(), Pods: mapped(v.GetPods(), podFrom), Kind: status.Kind(v.GetKind()),
		CapacityBytes: v.GetCapacityBytes(), UsedBytes: v.UsedBytes, UsedInodes: v.UsedInodes,
		EnforcesSize: v.GetEnforcesSize(), Created: secondsFrom(v.GetCreatedSeconds()),
		Source: v.GetSource(), Damaged: v.GetDamaged(), Faults: v.GetFaults(),
		TrashRetentionSeconds: v.TrashRetentionSeconds, GrowthBytesPerDay: v.GrowthBytesPerDay,
		Use: mapped(v.GetUse(), sampleFrom), Snapshots: mapped(v.GetSnapshots(), snapshotFrom),
		Git: gitFrom(v.GetGit()),
	}
}

func gitTo(g *status.Git) *linkpb.GitStatus {
	if g == nil {
		return nil
	}
	return &linkpb.GitStatus{
		Url: g.URL, Ref: g.Ref, Commit: g.Commit, FetchedSeconds: secondsTo(g.Fetched),
	}
}

func gitFrom(g *linkpb.GitStatus) *status.Git {
	if g == nil {
		return nil
	}
	return &status.Git{
		URL: g.GetUrl(), Ref: g.GetRef(), Commit: g.GetCommit(),
		Fetched: secondsFrom(g.GetFetchedSeconds()),
	}
}

func podTo(p status.Pod) *linkpb.PodStatus {
	return &linkpb.PodStatus{Uid: p.UID, Namespace: p.Namespace, Name: p.Name}
}

func podFrom(p *linkpb.PodStatus) status.Pod {
	return status.Pod{UID: p.GetUid(), Namespace: p.GetNamespace(), Name: p.GetName()}
}

func snapshotTo(s status.Snapshot) *linkpb.SnapshotStatus {
	return &linkpb.SnapshotStatus{
		Id: s.ID, Pool: s.Pool, Name: s.Name, Volume: s.Volume, Snapshot: objectTo(s.Snapshot),
		Group: s.Group, RestoreBytes: s.RestoreBytes, HeldBytes: s.HeldBytes,
		CreatedSeconds: secondsTo(s.Created), Damaged: s.Damaged,
	}
}

func snapshotFrom(s *linkpb.SnapshotStatus) status.Snapshot {
	return status.Snapshot{
		ID: s.GetId(), Pool: s.GetPool(), Name: s.GetName(), Volume: s.GetVolume(),
		Snapshot: objectFrom(s.GetSnapshot()), Group: s.GetGroup(),
		RestoreBytes: s.GetRestoreBytes(), HeldBytes: s.GetHeldBytes(),
		Created: secondsFrom(s.GetCreatedSeconds()), Damaged: s.GetDamaged(),
	}
}

func trashTo(e status.TrashEntry) *linkpb.TrashStatus {
	return &linkpb.TrashStatus{
		Pool: e.Pool, Entry: e.Entry, Id: e.ID, IsSnapshot: e.IsSnapshot, Claim: objectTo(e.Claim),
		PromisedBytes: e.PromisedBytes, DeletedSeconds: secondsTo(e.Deleted), State: string(e.State),
		PurgedAfterSeconds: secondsTo(e.PurgedAfter), LeftSeconds: e.LeftSeconds,
		CapacityBytes: e.CapacityBytes, IsBlock: e.IsBlock, PersistentVolume: e.PersistentVolume,
	}
}

func trashFrom(e *linkpb.TrashStatus) status.TrashEntry {
	return status.TrashEntry{
		Pool: e.GetPool(), Entry: e.GetEntry(), ID: e.GetId(), IsSnapshot: e.GetIsSnapshot(),
		Claim: objectFrom(e.GetClaim()), PromisedBytes: e.GetPromisedBytes(),
		Deleted: secondsFrom(e.GetDeletedSeconds()), State: status.TrashState(e.GetState()),
		PurgedAfter: secondsFrom(e.GetPurgedAfterSeconds()), LeftSeconds: e.GetLeftSeconds(),
		CapacityBytes: e.GetCapacityBytes(), IsBlock: e.GetIsBlock(),
		PersistentVolume: e.GetPersistentVolume(),
	}
}

func copyTo(c status.Copy) *linkpb.CopyStatus {
	return &linkpb.CopyStatus{
		Pool: c.Pool, What: c.What, BeganSeconds: secondsTo(c.Began), CopiedBytes: c.CopiedBytes,
		CopiedFiles: c.CopiedFiles, Source: c.Source, TotalBytes: c.TotalBytes,
	}
}

func copyFrom(c *linkpb.CopyStatus) status.Copy {
	return status.Copy{
		Pool: c.GetPool(), What: c.GetWhat(), Began: secondsFrom(c.GetBeganSeconds()),
		CopiedBytes: c.GetCopiedBytes(), CopiedFiles: c.GetCopiedFiles(), Source: c.GetSource(),
		TotalBytes: c.TotalBytes,
	}
}
