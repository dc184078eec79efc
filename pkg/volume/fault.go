package volume

// Fault says in a word what is wrong with a volume whose pool can be used. Like a Reason it is the
// label of a metric and what a stranger may read.
type Fault string

// The faults that a pool knows of its volumes.
const (
	FaultRecordDamaged   Fault = "record_damaged"    // volume.json is missing or unreadable
	FaultImageIncomplete Fault = "image_incomplete"  // the image is missing or too short
	FaultImageDamaged    Fault = "image_damaged"     // its filesystem could not be mounted
	FaultGrowthFailed    Fault = "growth_failed"     // the filesystem is smaller than the volume
	FaultSizeNotEnforced Fault = "size_not_enforced" // the volume can grow beyond its size
	FaultOvercharged     Fault = "overcharged"       // others' files fill the volume
)

// The faults that are found where a volume is used.
const (
	FaultDataMissing      Fault = "data_missing"      // the record is there, and the data is not
	FaultNotMounted       Fault = "not_mounted"       // somebody has unmounted the volume
	FaultCovered          Fault = "covered"           // something else is mounted over the volume
	FaultReadOnly         Fault = "read_only"         // the filesystem in the image became read-only
	FaultFilesystemFailed Fault = "filesystem_failed" // the mounted filesystem gives I/O errors
	FaultHangs            Fault = "hangs"             // the mounted filesystem does not answer
	FaultGitStale         Fault = "git_stale"         // the content of git cannot be refreshed
)

// PoolFaults lists the faults that a pool knows of its volumes.
func PoolFaults() []Fault {
	return []Fault{
		FaultRecordDamaged, FaultImageIncomplete, FaultImageDamaged, FaultGrowthFailed,
		FaultSizeNotEnforced, FaultOvercharged,
	}
}
