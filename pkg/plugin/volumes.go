package plugin

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// Volume is a volume as the plugin shows it: a claim, and what the driver says of it.
type Volume struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Status is the phase of the claim; Released: the claim is gone.
	Status           string    `json:"status"`
	PersistentVolume string    `json:"persistentVolume,omitempty"`
	ID               string    `json:"id,omitempty"`
	Class            string    `json:"storageClass,omitempty"`
	Node             string    `json:"node,omitempty"`
	CapacityBytes    int64     `json:"capacityBytes"`
	Pods             []string  `json:"pods,omitempty"`
	Created          time.Time `json:"created"`
	// Repository is the URL of the git repository whose content the volume shows. That is not the
	// volume's own: see the command git.
	Repository string `json:"repository,omitempty"`
	// Data is what the status API says; nil: it was not asked, or does not know the volume.
	Data *status.Volume `json:"data,omitempty"`
}

// UsedBytes is what the volume holds; nil: unknown.
func (v Volume) UsedBytes() *int64 {
	if v.Data == nil {
		return nil
	}
	return v.Data.UsedBytes
}

// selection says which volumes a command is about.
type selection struct {
	all   bool
	names []string // of claims; empty: all
	node  string
}

func (sel *selection) register(cmd *cobra.Command) {
	allNamespaces(cmd, &sel.all)
	cmd.Flags().StringVar(&sel.node, "node", "", "only on this node")
}

func (p *plugin) volumesCommand() *cobra.Command {
	var o printing
	var sel selection
	cmd := &cobra.Command{
		Use:     "volumes [CLAIM...]",
		Aliases: []string{"volume", "vol"},
		Short:   "Claims of the driver: where the volume is, how full, which pods",
		Example: "  kubectl hostpath volumes\n  kubectl hostpath volumes -A --node node-1 -o wide",
	}
	o.register(cmd)
	sel.register(cmd)
	cmd.ValidArgsFunction = p.completeClaims
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sel.names = args
		return p.showList(cmd.Context(), o, func(
			ctx context.Context, s *session,
		) (output.List, []string, error) {
			volumes, hints, err := s.volumes(ctx, sel)
			if err != nil {
				return output.List{}, nil, err
			}
			return volumeList(volumes, sel.all, p.now()), hints, nil
		})
	}
	return cmd
}

// volumes reads the claims that are selected, and joins them with PersistentVolumes, pods and what
// the driver says. hints is what could not be read.
func (s *session) volumes(
	ctx context.Context, sel selection,
) (volumes []Volume, hints []string, err error) {
	namespace, err := s.namespace(sel.all)
	if err != nil {
		return nil, nil, err
	}
	all, err := s.Claims(ctx, namespace)
	if err != nil {
		return nil, nil, err
	}
	pvs, err := s.Volumes(ctx)
	if err != nil {
		return nil, nil, err
	}
	classes, err := s.Classes(ctx)
	if err != nil {
		return nil, nil, err
	}
	pods, err := s.Pods(ctx, namespace, "")
	if err != nil {
		return nil, nil, err
	}
	index := claims.NewIndex(s.installation.Driver, pvs, classes, pods)
	for _, c := range all {
		if index.Has(c) && (len(sel.names) == 0 || slices.Contains(sel.names, c.Name)) {
			volumes = append(volumes, volumeOf(c, index))
		}
	}
	if sel.all && len(sel.names) == 0 {
		volumes = append(volumes, releasedOf(pvs, index)...)
	}
	missing := s.addData(ctx, namespace, volumes)
	volumes = slices.DeleteFunc(volumes, func(v Volume) bool {
		return sel.node != "" && v.Node != sel.node
	})
	sortVolumes(volumes)
	return volumes, append(s.NotShown(), missing...), nil
}

func sortVolumes(volumes []Volume) {
	slices.SortFunc(volumes, func(a, b Volume) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Claim, b.Claim),
			cmp.Compare(a.PersistentVolume, b.PersistentVolume))
	})
}

func volumeOf(c *core.PersistentVolumeClaim, index *claims.Index) Volume {
	v := Volume{
		Namespace: c.Namespace, Claim: c.Name, Status: claims.Phase(c),
		PersistentVolume: c.Spec.VolumeName, Class: claims.ClassName(c),
		CapacityBytes: claims.Capacity(c), Pods: claims.PodNames(index.Pods(c)),
		Created: c.CreationTimestamp.Time,
	}
	if pv := index.Volume(c); pv != nil {
		v.ID, v.Node = pv.Spec.CSI.VolumeHandle, index.Node(pv)
		v.Repository = repositoryOf(pv)
	} else {
		v.Node = c.Annotations[claims.SelectedNode]
	}
	return v
}

// repositoryOf is empty for a volume without content of git.
func repositoryOf(pv *core.PersistentVolume) string {
	attributes := pv.Spec.CSI.VolumeAttributes
	if !volume.HasGit(attributes) {
		return ""
	}
	url, err := volume.ParseGitURL(attributes[volume.ParamURL])
	if err != nil {
		return output.Unknown // it may have a password
	}
	return url.WithoutUser().String()
}

// releasedOf are the volumes whose claim is gone.
func releasedOf(pvs []*core.PersistentVolume, index *claims.Index) (volumes []Volume) {
	for _, pv := range pvs {
		if !index.IsOurs(pv) || pv.Status.Phase == core.VolumeBound || pv.Spec.ClaimRef == nil {
			continue
		}
		size := pv.Spec.Capacity[core.ResourceStorage]
		volumes = append(volumes, Volume{
			Namespace: pv.Spec.ClaimRef.Namespace, Claim: pv.Spec.ClaimRef.Name,
			Status: string(pv.Status.Phase), PersistentVolume: pv.Name, ID: pv.Spec.CSI.VolumeHandle,
			Class: pv.Spec.StorageClassName, Node: index.Node(pv), CapacityBytes: size.Value(),
			Repository: repositoryOf(pv), Created: pv.CreationTimestamp.Time,
		})
	}
	return volumes
}

// addData adds what the driver says of volumes. What belongs to no volume of the list is left out:
// the user may not list its claim.
func (s *session) addData(ctx context.Context, namespace string, volumes []Volume) []string {
	if len(volumes) == 0 {
		return nil
	}
	missing, err := s.fillData(ctx, namespace, volumes)
	var hints []string
	if err == nil && namespace != "" {
		// The driver has the claim that a volume was made for, and this may be another one.
		hints, err = s.fillEach(ctx, volumes, missing)
	}
	if err != nil {
		return []string{"use, pool and node: " + err.Error()}
	}
	return append(hintsOf("use of volumes", missing), hints...)
}

// lacksData says whether the driver should know the volume, and has not told.
func (v Volume) lacksData() bool { return v.ID != "" && v.Data == nil && v.Repository == "" }

// fillData adds what the driver says of volumes that were made for claims of a namespace; "" is
// all.
func (s *session) fillData(
	ctx context.Context, namespace string, volumes []Volume,
) (missing []status.Missing, err error) {
	data, missing, err := list[status.Volume](ctx, s, "volumes",
		only(status.ParamNamespace, namespace))
	byID, byName := map[string]*status.Volume{}, map[string]*status.Volume{}
	for i := range data {
		byID[data[i].ID], byName[data[i].Name] = &data[i], &data[i]
	}
	for i := range volumes {
		v := &volumes[i]
		if v.Data = byID[v.ID]; v.ID == "" && v.PersistentVolume != "" {
			v.Data = byName[v.PersistentVolume] // the user may not see the PersistentVolume
		}
		if v.Data != nil {
			v.ID, v.Node = v.Data.ID, v.Data.Node
		}
	}
	return missing, err
}

func volumeList(volumes []Volume, all bool, now time.Time) output.List {
	l := output.List{
		Kind: "VolumeList", None: "No volumes found.",
		Columns: []output.Column{
			{Name: "Claim"},
			{Name: "Status"},
			{Name: "Size"},
			{Name: "Used"},
			{Name: "Use"},
			{Name: "Node"},
			{Name: "Pool"},
			{Name: "Class"},
			{Name: "Pods"},
			{Name: "Age"},
			{Name: "Kind", Wide: true},
			{Name: "Faults", Wide: true},
			{Name: "Volume", Wide: true},
			{Name: "ID", Wide: true},
		},
	}
	if all {
		l.Columns = slices.Insert(l.Columns, 0, output.Column{Name: "Namespace"})
	}
	for _, v := range volumes {
		l.Rows = append(l.Rows, volumeRow(v, all, now))
	}
	return l
}

func volumeRow(v Volume, all bool, now time.Time) output.Row {
	pool, kind, faults := output.Unknown, output.Unknown, output.Unknown
	if v.Repository != "" {
		kind = string(status.GitTree)
	}
	if v.Data != nil {
		pool, kind = v.Data.Pool, string(v.Data.Kind)
		faults = output.Text(strings.Join(v.Data.Faults, ","))
	}
	cells := []any{
		v.Claim, v.Status, output.Bytes(v.CapacityBytes), output.BytesOf(v.UsedBytes()),
		output.PercentOf(v.UsedBytes(), v.CapacityBytes), output.Text(v.Node), pool,
		output.Text(v.Class), output.Text(strings.Join(v.Pods, ",")), output.Age(v.Created, now), kind,
		faults, output.Text(v.PersistentVolume), output.Text(v.ID),
	}
	name := "persistentvolumeclaim/" + v.Claim
	if all {
		cells = slices.Insert(cells, 0, any(v.Namespace))
	}
	if v.Status == string(core.VolumeReleased) || v.Status == string(core.VolumeFailed) {
		name = "persistentvolume/" + v.PersistentVolume
	}
	return output.Row{Name: name, Cells: cells, Item: v}
}

// completeClaims completes the names of claims.
func (p *plugin) completeClaims(
	cmd *cobra.Command, _ []string, prefix string,
) (names []string, _ cobra.ShellCompDirective) {
	reader, _, err := p.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	namespace, err := p.namespace(false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	all, err := reader.Claims(cmd.Context(), namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	for _, c := range all {
		if strings.HasPrefix(c.Name, prefix) {
			names = append(names, c.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
