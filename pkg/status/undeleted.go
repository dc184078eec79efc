package status

// Undeleted is a volume that was taken back from the trash: what `csi-hostpath undelete -o json`
// prints, and what a PersistentVolume for the volume needs.
type Undeleted struct {
	ID   string `json:"id"`
	Pool string `json:"pool"`
	// CapacityBytes is the volume's size, and IsBlock whether it is a raw block volume.
	CapacityBytes int64 `json:"capacityBytes"`
	IsBlock       bool  `json:"isBlock,omitempty"`
	// Topology has the segment of the volume's node.
	Topology map[string]string `json:"topology"`
	// Claim and PersistentVolume are those that the volume was made for, if its record says so.
	Claim            *ObjectName `json:"claim,omitempty"`
	PersistentVolume string      `json:"persistentVolume,omitempty"`
	// WasNotInTrash: the volume is there, and the trash had no such entry. It was taken back before,
	// or the entry's name is wrong.
	WasNotInTrash bool `json:"wasNotInTrash,omitempty"`
}
