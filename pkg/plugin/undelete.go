package plugin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/claims"
	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/objects"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// provisionedBy lets external-provisioner delete a PersistentVolume that somebody has written.
const provisionedBy = "pv.kubernetes.io/provisioned-by"

// provisioner lets external-resizer grow a claim that somebody has written: the chart's admission
// policy lets it change only claims with this annotation. Nobody provisions a claim that has a
// volumeName.
const provisioner = "volume.kubernetes.io/storage-provisioner"

// undelete is what `undelete` was told.
type undelete struct {
	node    string
	claim   string // namespace/name, or a name in the current namespace
	class   string
	pv      string
	reclaim string
	dryRun  bool
}

func (p *plugin) undeleteCommand() *cobra.Command {
	var u undelete
	cmd := &cobra.Command{
		Use:   "undelete ENTRY | PV | NAMESPACE/CLAIM",
		Short: "Take a deleted volume back from the trash",
		Long: "Take a deleted volume back from the trash: the driver of its node does it, without a " +
			"restart. Nothing is overwritten. With --claim, a PersistentVolume and a claim for it are " +
			"made; before the volume is taken back, the API server is asked whether it would take them. " +
			"Without --claim, they are printed.",
		Example: "  kubectl hostpath trash\n" +
			"  kubectl hostpath undelete pvc-6f2c….1a2b3c4d --claim shop/books --dry-run\n" +
			"  kubectl hostpath undelete pvc-6f2c….1a2b3c4d --claim shop/books",
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&u.node, "node", "",
		"node that has the entry; default: the one that the trash says")
	flags.StringVar(&u.claim, "claim", "",
		"claim to make for the volume: namespace/name, or a name in "+
			"the current namespace")
	flags.StringVar(&u.class, "class", "",
		"StorageClass of both objects; default: csi-hostpath if it is "+
			"of the driver, else none")
	flags.StringVar(&u.pv, "pv", "", "name of the PersistentVolume; default: the one that it had")
	flags.StringVar(&u.reclaim, "reclaim-policy", string(core.PersistentVolumeReclaimRetain),
		"Retain or Delete. With Retain, a mistake cannot delete the data again")
	flags.BoolVar(&u.dryRun, "dry-run", false, "only say what would be done")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if u.reclaim != string(core.PersistentVolumeReclaimRetain) &&
			u.reclaim != string(core.PersistentVolumeReclaimDelete) {
			return fmt.Errorf("--reclaim-policy %s: want Retain or Delete", u.reclaim)
		}
		s, err := p.begin(cmd.Context())
		if err != nil {
			return err
		}
		return s.undelete(cmd.Context(), u, args[0])
	}
	return cmd
}

func (s *session) undelete(ctx context.Context, u undelete, name string) error {
	if !s.installation.IsVisible() {
		return errNotVisible
	}
	entry, err := s.findEntry(ctx, u, name)
	if err != nil {
		return err
	}
	pools, err := s.poolsOf(ctx, entry)
	if err != nil {
		return err
	}
	if u.class == "" {
		if u.class, err = s.usualClass(ctx); err != nil {
			return err
		}
	}
	planned, err := s.objectsFor(u, s.plannedFor(entry))
	if err != nil {
		return err
	}
	if u.claim != "" {
		if err := s.create(ctx, planned, metav1.DryRunAll); err != nil {
			return fmt.Errorf("nothing was done: %w", err)
		}
	}
	if u.dryRun {
		return s.printPlan(entry, planned)
	}
	v, err := s.runUndelete(ctx, entry)
	if err != nil {
		return err
	}
	if err := checkUndeleted(entry, v, pools); err != nil {
		return err
	}
	sayUndeleted(s.Err, entry, v)
	made, err := s.objectsFor(u, v)
	if err != nil {
		return err
	}
	return s.finish(ctx, u, entry, made)
}

func sayUndeleted(out io.Writer, entry status.TrashEntry, v status.Undeleted) {
	if v.WasNotInTrash {
		fmt.Fprintf(out, "Volume %s is on node %s, pool %s, and was not in the trash: nothing was "+
			"changed there. It was taken back before, or %s is not the entry's name.\n", v.ID, entry.Node,
			v.Pool, entry.Entry)
		return
	}
	fmt.Fprintf(out, "Volume %s is back on node %s, pool %s.\n", v.ID, entry.Node, v.Pool)
}

func (s *session) printPlan(e status.TrashEntry, planned static) error {
	if e.ID == "" || e.CapacityBytes == 0 {
		return errors.New("the trash does not show the ID and size of the entry: the objects cannot be " +
			"shown before the volume is back")
	}
	fmt.Fprintf(s.Out, "# Would take entry %s back, on node %s, pool %s, and make:\n", e.Entry,
		e.Node, e.Pool)
	return s.printObjects(planned)
}

// finish makes the objects of a volume that is back, or prints them.
func (s *session) finish(
	ctx context.Context, u undelete, e status.TrashEntry, made static,
) error {
	again := fmt.Sprintf("kubectl hostpath undelete --node %s --claim %s/%s %s", e.Node,
		made.claim.Namespace, made.claim.Name, e.Entry)
	if u.claim == "" {
		fmt.Fprintf(s.Err, "To use it, apply these objects, or run\n  %s\n", again)
		return s.printObjects(made)
	}
	if err := s.create(ctx, made); err != nil {
		fmt.Fprintf(s.Err, "Its objects could not be made. Apply them, or run again:\n  %s\n", again)
		return errors.Join(fmt.Errorf("the volume is back; its objects could not be made: %w", err),
			s.printObjects(made))
	}
	fmt.Fprintf(s.Out,
		"persistentvolume/%s created\npersistentvolumeclaim/%s created in namespace %s\n",
		made.volume.Name, made.claim.Name, made.claim.Namespace)
	return nil
}

// fullEntry is the full name of an entry of trash/.
var fullEntry = regexp.MustCompile(`^[^/]+\.[0-9a-f]{8}$`)

// findEntry finds the entry that a name means. With a node, an entry's full name needs no status
// API, and the trash need not have the entry: the driver answers for a volume that is back already.
func (s *session) findEntry(
	ctx context.Context, u undelete, name string,
) (found status.TrashEntry, err error) {
	entries, hints, err := s.trash(ctx, u.node)
	if err != nil && u.node != "" {
		return status.TrashEntry{Node: u.node, Entry: name}, nil
	}
	if err != nil {
		return found,
			fmt.Errorf("look for %s in the trash: %w (with --node, a full name of an entry needs "+
				"no look)", name, err)
	}
	var matching []status.TrashEntry
	for _, e := range entries {
		if !e.IsSnapshot && matchesEntry(e, name) && (u.node == "" || e.Node == u.node) {
			matching = append(matching, e)
		}
	}
	switch len(matching) {
	case 0:
		if u.node != "" && fullEntry.MatchString(name) {
			return status.TrashEntry{Node: u.node, Entry: name}, nil
		}
		s.sayOnce(map[string]bool{}, hints)
		return found, fmt.Errorf("no deleted volume %s is in a trash that you may see: look at "+
			"kubectl hostpath trash", name)
	case 1:
		return matching[0], nil
	}
	var names []string
	for _, e := range matching {
		names = append(names, fmt.Sprintf("%s (node %s, deleted %s)", e.Entry, e.Node,
			e.Deleted.UTC().Format("2006-01-02 15:04:05")))
	}
	return found, fmt.Errorf("%s was deleted several times: choose one of %s, with --node if it is "+
		"on several nodes", name, strings.Join(names, ", "))
}

func matchesEntry(e status.TrashEntry, name string) bool {
	original := originalName(e.Entry)
	return e.Entry == name || original == name || e.ID == name ||
		e.Claim != nil && e.Claim.Namespace+"/"+e.Claim.Name == name
}

// originalName is the name that an entry had before it was deleted: what stands before the last
// point.
func originalName(entry string) string {
	if i := strings.LastIndex(entry, "."); i >= 0 {
		return entry[:i]
	}
	return entry
}

// poolsOf are the IDs of the pools of an entry's node. A pool that another node has as well is
// nobody's. nil: the status API cannot be asked; findEntry then had the full name. Errors: the
// entry's ID is of another pool.
func (s *session) poolsOf(ctx context.Context, e status.TrashEntry) (map[string]bool, error) {
	all, _, err := list[status.Pool](ctx, s, "pools", nil)
	if err != nil && e.ID == "" {
		return nil, nil //nolint:nilnil // said above
	}
	if err != nil {
		return nil, fmt.Errorf("ask which pools node %s has: %w", e.Node, err)
	}
	pools := map[string]bool{}
	for _, p := range all {
		if p.Node == e.Node && p.ID != "" {
			pools[p.ID] = true
		}
	}
	for _, p := range all {
		if p.Node != e.Node {
			delete(pools, p.ID)
		}
	}
	if e.ID == "" {
		return pools, nil
	}
	return pools, checkID(e, e.ID, pools)
}

// checkID refuses the ID of a volume that is not the entry's. A node may lie, and a
// PersistentVolume with the ID of another node's volume could delete that volume.
func checkID(e status.TrashEntry, text string, pools map[string]bool) error {
	id, err := volume.ParseID(text)
	switch {
	case err != nil:
		return fmt.Errorf("node %s says an ID that cannot be: %w", e.Node, err)
	case id.Dir() != originalName(e.Entry):
		return fmt.Errorf("node %s says that entry %s is volume %s, which is another one: do not trust "+
			"that node", e.Node, e.Entry, text)
	case pools != nil && !pools[string(id.Pool())]:
		return fmt.Errorf("node %s says that entry %s is volume %s, but pool %s is not known as a pool "+
			"of that node alone", e.Node, e.Entry, text, id.Pool())
	}
	return nil
}

// checkUndeleted refuses an answer for another volume than the entry's.
func checkUndeleted(e status.TrashEntry, v status.Undeleted, pools map[string]bool) error {
	if e.ID != "" && v.ID != e.ID {
		return fmt.Errorf("node %s was asked for volume %s and answered for %s: no objects are made",
			e.Node, e.ID, v.ID)
	}
	return checkID(e, v.ID, pools)
}

// usualClass is the chart's first class, if there is one that the user may see.
func (s *session) usualClass(ctx context.Context) (string, error) {
	const usual = "csi-hostpath"
	classes, err := s.Classes(ctx)
	if err != nil {
		return "", err
	}
	for _, c := range classes {
		if c.Name == usual && c.Provisioner == s.installation.Driver {
			return usual, nil
		}
	}
	return "", nil
}

// unknownID stands for the ID of a volume that only its driver knows.
const unknownID = "unknown"

// plannedFor is what undelete will say, as far as the trash says it. If the trash could not be
// read, ID and size are made up: the API server is to say only whether it would take such objects.
func (s *session) plannedFor(e status.TrashEntry) status.Undeleted {
	original := originalName(e.Entry)
	return status.Undeleted{
		ID: cmp.Or(e.ID, unknownID), Pool: e.Pool, CapacityBytes: max(1, e.CapacityBytes),
		IsBlock: e.IsBlock, Claim: e.Claim, PersistentVolume: cmp.Or(e.PersistentVolume, original),
		Topology: volume.Topology(s.installation.Driver, e.Node),
	}
}

// errNoUndelete: the driver is of an older version.
var errNoUndelete = errors.New("the driver of that node has no command undelete: it is older " +
	"than this plugin. docs/operations.md says how to take the volume back by hand")

// runUndelete has the driver of the entry's node take the volume back.
func (s *session) runUndelete(
	ctx context.Context, e status.TrashEntry,
) (v status.Undeleted, err error) {
	pod, err := s.DriverPodOn(ctx, s.installation, e.Node)
	if err != nil {
		return v, err
	}
	if pod == nil {
		return v, fmt.Errorf("no driver runs on node %s that you may see", e.Node)
	}
	command := []string{
		"csi-hostpath", "undelete", "--endpoint=" + s.installation.Endpoint(), "--output=json",
		"--pool=" + e.Pool, "--", e.Entry,
	}
	out, err := s.execIn(ctx, s.pods, pod, objects.DriverContainer, command...)
	switch {
	case isForbidden(err):
		return v, fmt.Errorf("you may not exec into pods of namespace %s (pods/exec)", pod.Namespace)
	case err != nil && strings.Contains(err.Error(), "unknown command"):
		return v, errNoUndelete
	case err != nil && strings.Contains(err.Error(), "ask again"):
		return v, fmt.Errorf("%w: kubectl hostpath undelete --node %s %s", err, e.Node, e.Entry)
	case err != nil:
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("the answer of csi-hostpath undelete: %w", err)
	}
	v.Topology = volume.Topology(s.installation.Driver, e.Node)
	v.PersistentVolume = cmp.Or(v.PersistentVolume, originalName(e.Entry))
	return v, nil
}

// static are the objects of a volume that was not provisioned.
type static struct {
	volume *core.PersistentVolume
	claim  *core.PersistentVolumeClaim
}

// objectsFor are the objects for a volume: docs/operations.md says why they are so.
func (s *session) objectsFor(u undelete, v status.Undeleted) (static, error) {
	key, err := s.claimKey(u, v)
	if err != nil {
		return static{}, err
	}
	mode, capacity := core.PersistentVolumeFilesystem, *resource.NewQuantity(v.CapacityBytes,
		resource.BinarySI)
	if v.IsBlock {
		mode = core.PersistentVolumeBlock
	}
	size := core.ResourceList{core.ResourceStorage: capacity}
	name := cmp.Or(u.pv, v.PersistentVolume)
	modes := []core.PersistentVolumeAccessMode{core.ReadWriteOnce}
	return static{
		volume: &core.PersistentVolume{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"},
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Annotations: map[string]string{provisionedBy: s.installation.Driver},
			},
			Spec: core.PersistentVolumeSpec{
				Capacity: size, AccessModes: modes, VolumeMode: &mode, StorageClassName: u.class,
				PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimPolicy(u.reclaim),
				ClaimRef:                      &core.ObjectReference{Namespace: key.Namespace, Name: key.Name},
				PersistentVolumeSource: core.PersistentVolumeSource{CSI: &core.CSIPersistentVolumeSource{
					Driver: s.installation.Driver, VolumeHandle: v.ID,
				}},
				NodeAffinity: affinityOf(v.Topology),
			},
		},
		claim: &core.PersistentVolumeClaim{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: key.Namespace, Name: key.Name,
				Annotations: map[string]string{provisioner: s.installation.Driver},
			},
			Spec: core.PersistentVolumeClaimSpec{
				AccessModes: modes, VolumeMode: &mode, StorageClassName: &u.class, VolumeName: name,
				Resources: core.VolumeResourceRequirements{Requests: size},
			},
		},
	}, nil
}

func affinityOf(topology map[string]string) *core.VolumeNodeAffinity {
	var term core.NodeSelectorTerm
	for key, value := range topology {
		term.MatchExpressions = append(term.MatchExpressions, core.NodeSelectorRequirement{
			Key: key, Operator: core.NodeSelectorOpIn, Values: []string{value},
		})
	}
	return &core.VolumeNodeAffinity{Required: &core.NodeSelector{
		NodeSelectorTerms: []core.NodeSelectorTerm{term},
	}}
}

// claimKey is the claim to make: the one that was asked for, else the one that the volume was of.
func (s *session) claimKey(u undelete, v status.Undeleted) (claims.Key, error) {
	if namespace, name, ok := strings.Cut(u.claim, "/"); ok {
		return claims.Key{Namespace: namespace, Name: name}, nil
	}
	if u.claim == "" && v.Claim != nil {
		return claims.Key{Namespace: v.Claim.Namespace, Name: v.Claim.Name}, nil
	}
	namespace, err := s.namespace(false)
	return claims.Key{Namespace: namespace, Name: cmp.Or(u.claim, v.PersistentVolume)}, err
}

// create makes both objects. dryRun asks the API server whether it would. A PersistentVolume that
// an earlier call made is good; a second one for the volume would be a second owner.
func (s *session) create(ctx context.Context, o static, dryRun ...string) error {
	opts := metav1.CreateOptions{DryRun: dryRun, FieldManager: "kubectl-hostpath"}
	client := s.Client.CoreV1()
	isMade, err := s.isMade(ctx, o.volume)
	if err != nil {
		return err
	}
	if !isMade {
		if _, err := client.PersistentVolumes().Create(ctx, o.volume, opts); err != nil {
			return err
		}
	}
	_, err = client.PersistentVolumeClaims(o.claim.Namespace).Create(ctx, o.claim, opts)
	return err
}

// isMade says whether a PersistentVolume exists as wanted. Errors: another one is of the volume.
func (s *session) isMade(ctx context.Context, wanted *core.PersistentVolume) (bool, error) {
	all, err := s.Volumes(ctx)
	if err != nil {
		return false, err
	}
	handle, claim := wanted.Spec.CSI.VolumeHandle, wanted.Spec.ClaimRef
	for _, pv := range all {
		csi, ref := pv.Spec.CSI, pv.Spec.ClaimRef
		if csi == nil || csi.Driver != s.installation.Driver {
			continue
		}
		isSame := csi.VolumeHandle == handle || handle == unknownID && pv.Name == wanted.Name
		switch {
		case !isSame:
		case pv.Name == wanted.Name && ref != nil && ref.Namespace == claim.Namespace &&
			ref.Name == claim.Name:
			return true, nil
		default:
			return false, fmt.Errorf("PersistentVolume %s is of volume %s already", pv.Name,
				csi.VolumeHandle)
		}
	}
	return false, nil
}

func (s *session) printObjects(o static) error {
	for i, object := range []any{o.volume, o.claim} {
		text, err := yaml.Marshal(object)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(s.Out, "---")
		}
		// The objects have no status, and no time of their creation.
		kept := strings.ReplaceAll(string(text), "status: {}\n", "")
		fmt.Fprint(s.Out, strings.ReplaceAll(kept, "  creationTimestamp: null\n", ""))
	}
	return nil
}
