package volume

import (
	"fmt"
	"maps"
	"strings"
)

// The keys that kubelet adds to a volume's attributes, over whatever the user wrote there, if the
// CSIDriver object has podInfoOnMount (Kubernetes pkg/volume/csi: getPodInfoAttrs in csi_util.go,
// mergeMap in SetUpAt of csi_mounter.go). If it has not, they are the user's own: see Pod.
const (
	AttrPodName      = "csi.storage.k8s.io/pod.name"
	AttrPodNamespace = "csi.storage.k8s.io/pod.namespace"
	AttrPodUID       = "csi.storage.k8s.io/pod.uid"
	AttrEphemeral    = "csi.storage.k8s.io/ephemeral"

	// attrReserved begins the keys that Kubernetes adds, today and in later versions. A service
	// account's token may be among them.
	attrReserved = "csi.storage.k8s.io/"
	// attrProvisioner is what external-provisioner adds to a PV's attributes.
	attrProvisioner = "storage.kubernetes.io/csiProvisionerIdentity"
)

// defaultInlineMode is what emptyDir has: any user of the pod may write.
const defaultInlineMode = 0o777

// Pod is who mounts a volume, as the attributes say. It is kubelet who says it when the UID is also
// in the target path: nobody knows a pod's UID before the pod exists, and a pod's volumes cannot be
// changed after that.
type Pod struct {
	Name, Namespace, UID string
}

// Attributes is what ParseAttributes reads from the volume_context of a publish.
type Attributes struct {
	Pod Pod
	// Inline: the volume is written in the pod and lives with it.
	Inline bool
	// Memory: an inline volume on a tmpfs.
	Memory bool
	// SizeBytes is that of an inline volume.
	SizeBytes int64
	Parameters
}

// HasPath says whether the attributes of a publish name a path of the host: then the volume's ID
// says nothing.
func HasPath(attributes map[string]string) bool { return attributes[ParamPath] != "" }

// InlineKeys lists the keys that a pod may set for an inline volume.
func InlineKeys() []string {
	return []string{
		ParamAllocation,
		ParamBacking,
		ParamGID,
		ParamInodes,
		ParamMedium,
		ParamMode,
		ParamPath,
		ParamPool,
		ParamSize,
		ParamType,
		ParamUID,
	}
}

// ParseAttributes reads a volume_context; parseSize reads a Kubernetes quantity. An inline volume
// defaults to a directory of 1 GiB and mode 0777, as an emptyDir has it. Errors: ErrInvalid, naming
// the key.
func ParseAttributes(
	attributes map[string]string, parseSize func(string) (int64, error),
) (Attributes, error) {
	a := Attributes{
		Pod: Pod{
			Name:      attributes[AttrPodName],
			Namespace: attributes[AttrPodNamespace],
			UID:       attributes[AttrPodUID],
		},
		Inline:     attributes[AttrEphemeral] == "true",
		SizeBytes:  DefaultCapacityBytes,
		Parameters: Parameters{Spec: Spec{Type: DirectoryOrCreate}},
	}
	rest := maps.Clone(attributes)
	maps.DeleteFunc(
		rest,
		func(key, _ string) bool {
			return strings.HasPrefix(key, attrReserved) || key == attrProvisioner
		},
	)
	if hasSource(rest) {
		return a, a.setGit(rest, parseSize)
	}
	setters, known := classSetters(), ParameterKeys()
	if a.Inline {
		known = InlineKeys()
		setters[ParamSize] = func(_ *Parameters, v string) (err error) {
			a.SizeBytes, err = parsePositive(v, parseSize)
			return err
		}
		setters[ParamMedium] = func(_ *Parameters, v string) (err error) {
			a.Memory, err = parseMedium(v)
			return err
		}
	}
	if err := a.set(setters, rest, known); err != nil {
		return Attributes{}, err
	}
	if err := a.check(rest); err != nil {
		return Attributes{}, err
	}
	if err := a.checkInline(rest); err != nil {
		return Attributes{}, err
	}
	if _, given := rest[ParamMode]; !given {
		a.Spec.Mode = defaultMode(a.Spec.Type)
		if a.Inline && a.Path == "" && a.Spec.Type == DirectoryOrCreate {
			a.Spec.Mode = defaultInlineMode
		}
	}
	a.Owner = Owner{Namespace: a.Pod.Namespace, Pod: a.Pod.Name, PodUID: a.Pod.UID}
	return a, nil
}

// ReadOnlyRemedy completes an error about a pod whose volume must be read-only. kubelet tells the
// driver only of the readOnly of the pod's volume.
func ReadOnlyRemedy(isInline bool) string { //nolint:revive // a fact about the volume
	field := "persistentVolumeClaim"
	if isInline {
		field = "csi"
	}
	return "set " + field + ".readOnly: true in the pod's volumes " +
		"(readOnly of a container's volumeMounts is not enough)"
}

// mayBeImage says whether the attributes ask for an image, or leave it to the pool.
func (a *Attributes) mayBeImage() bool {
	return a.backing == backingImage || a.backing == backingEnforced || a.allocation != ""
}

// checkInline refuses combinations that say two things, or nothing.
func (a *Attributes) checkInline(given map[string]string) error {
	switch _, sized := given[ParamSize]; {
	case !a.Inline:
		return nil
	case a.Path != "" && (a.Memory || sized):
		return fmt.Errorf("%w: attribute %q is %q: a path of the host has no %q and no %q", ErrInvalid,
			ParamPath, a.Path, ParamSize, ParamMedium)
	case a.mayBeImage():
		return fmt.Errorf(
			"%w: an inline volume is a directory or a file of its pool's filesystem: "+
				"take %q and %q out, or use a claim (of the pod's own: ephemeral.volumeClaimTemplate)",
			ErrInvalid,
			ParamBacking,
			ParamAllocation,
		)
	case a.Memory && !sized:
		return fmt.Errorf("%w: attribute %q is Memory: that needs %q, such as 1Gi", ErrInvalid,
			ParamMedium, ParamSize)
	case a.Memory && a.Pool != "":
		return fmt.Errorf("%w: attribute %q is Memory, and %q is %q: what is in memory is in no pool",
			ErrInvalid, ParamMedium, ParamPool, a.Pool)
	case a.Memory && a.Spec.Type != DirectoryOrCreate:
		return fmt.Errorf("%w: attribute %q is Memory, and %q is %s: what is in memory is a directory",
			ErrInvalid, ParamMedium, ParamType, a.Spec.Type)
	case a.Memory && a.Spec.Inodes != 0:
		return fmt.Errorf("%w: attribute %q is Memory, and has no %q: take it out", ErrInvalid,
			ParamMedium, ParamInodes)
	default:
		return nil
	}
}

func parsePositive(s string, parse func(string) (int64, error)) (int64, error) {
	n, err := parse(s)
	if err != nil {
		return 0, err
	}
	if n <= 0 {
		return 0, fmt.Errorf("want a size above 0, such as 1Gi")
	}
	return n, nil
}

func parseMedium(s string) (bool, error) {
	switch s {
	case "":
		return false, nil
	case "Memory":
		return true, nil
	default:
		return false, fmt.Errorf("want Memory, or nothing for the pool's disk")
	}
}
