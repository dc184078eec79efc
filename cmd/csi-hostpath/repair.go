package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/command"
	"github.com/csi-hostpath/csi-hostpath/pkg/pool/repair"
	"github.com/csi-hostpath/csi-hostpath/pkg/quantity"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

// repairFlags are the flags of repair as they are given.
type repairFlags struct {
	pool, volume string
	capacity     string
	kind         string // --type
	fsType       string
	allocation   string
	yes          bool
	options      repair.Options
}

func repairCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repair --pool DIRECTORY --volume ID",
		Short: "Make the record of a volume again, from its data; without --yes nothing is changed",
		Long: "Make the record of a volume (volume.json) again, from its data, from what can be read of the " +
			"old record, and from the flags. The driver must not run on this node.",
		Args: command.NoArguments,
	}
	var f repairFlags
	f.register(cmd)
	command.AddVersion(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd) }
	return cmd
}

func (f *repairFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.pool, "pool", "", "the pool's directory")
	flags.StringVar(&f.volume, "volume", "", "the volume's ID (the volumeHandle of its PersistentVolume), "+
		"or its directory in volumes/")
	flags.BoolVar(&f.yes, "yes", false, "write the record")
	flags.StringVar(&f.options.Name, "name", "", "the name of the PersistentVolume, where the directory's name "+
		"is a digest")
	flags.StringVar(&f.capacity, "capacity", "", "the size of a volume that is no image, such as 10Gi")
	flags.StringVar(&f.kind, "type", "", "as in the class: DirectoryOrCreate or FileOrCreate")
	flags.StringVar(&f.options.Backing, "backing", "", "as in the class: directory or image")
	flags.StringVar(&f.fsType, "fs-type", "", "the filesystem of an image: ext4, xfs, btrfs, or none for a raw "+
		"block volume")
	flags.StringVar(&f.allocation, "allocation", "", "as in the class: sparse or preallocated")
	flags.StringVar(&f.options.Owner.Namespace, "namespace", "", "the claim's namespace")
	flags.StringVar(&f.options.Owner.Claim, "claim", "", "the claim's name")
	flags.StringVar(&f.options.Owner.PV, "pv", "", "the name of the PersistentVolume, for people")
	flags.BoolVar(&f.options.Erase, "erase", false, "nobody needs what the image holds: the next staging clears it, "+
		"and makes a new filesystem")
}

// parse reads the flags that are no plain texts. Every fault is named.
func (f *repairFlags) parse() error {
	var errs []error
	if f.pool == "" || f.volume == "" {
		errs = append(errs, errors.New("give --pool and --volume"))
	}
	if f.capacity != "" {
		bytes, err := quantity.Parse(f.capacity)
		if err != nil {
			err = fmt.Errorf("--capacity: %w", err)
		}
		errs, f.options.CapacityBytes = append(errs, err), bytes
	}
	f.options.Type = volume.Type(f.kind)
	f.options.FSType = volume.FSType(f.fsType)
	f.options.Allocation = volume.Allocation(f.allocation)
	return errors.Join(append(errs,
		oneOf("type", f.options.Type, volume.ManagedTypes()...),
		oneOf("backing", f.options.Backing, "directory", "image"),
		oneOf("fs-type", f.options.FSType, append(volume.FSTypes(), repair.NoFilesystem)...),
		oneOf("allocation", f.options.Allocation, volume.Sparse, volume.Preallocated),
	)...)
}

func oneOf[T ~string](flag string, value T, values ...T) error {
	if value == "" || slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("--%s: %q must be one of %q", flag, value, values)
}

func (f *repairFlags) run(cmd *cobra.Command) (err error) {
	if err := f.parse(); err != nil {
		return err
	}
	p, err := repair.OpenPool(f.pool)
	if errors.Is(err, volume.ErrUnavailable) {
		err = fmt.Errorf("%w: stop the driver on this node first", err)
	}
	if err != nil {
		return command.RunError{Err: err}
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	plan, err := repair.New(cmd.Context(), p, f.volume, f.options)
	if err != nil {
		return command.RunError{Err: err}
	}
	defer func() { err = errors.Join(err, plan.Close()) }()
	return f.carryOut(cmd, plan)
}

// carryOut shows what is found and what it becomes, and writes it if the operator says so.
func (f *repairFlags) carryOut(cmd *cobra.Command, plan *repair.Plan) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Volume %s\nFound: %s\nOld record:\n%s\nNew record: %s\n%s\n",
		plan.Volume.ID, plan.Found, plan.Old, plan.Summary(), plan.New)
	switch {
	case !plan.IsNeeded():
		fmt.Fprintln(out, "The record is right: nothing was changed.")
	case !f.yes:
		fmt.Fprintln(out, "Nothing was changed. To write the new record, add --yes.")
	default:
		if err := plan.Write(); err != nil {
			return command.RunError{Err: err}
		}
		fmt.Fprintln(out, "The new record is written. Start the driver.")
	}
	return nil
}
