package sanity

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

// centralSuffix ends the names of configurations whose calls go through the router.
const centralSuffix = " through the router"

// nodeOnly is a reason that the router does not have.
const nodeOnly = "in node deployment the node grows volumes, and nobody modifies them: " +
	"external-resizer has no node mode (controller EXPAND_VOLUME, MODIFY_VOLUME)"

// listedSkips has every spec that skips, with the reason. These specs skip in every configuration,
// but those with nodeOnly run through the router.
// If a listed spec runs, or another one skips, the test fails. So who adds a feature removes its
// specs here.
var listedSkips = []struct {
	reason string
	specs  []string
}{
	{
		nodeOnly,
		[]string{
			"ExpandVolume [Controller Server] should fail if no capacity range is given",
			"ExpandVolume [Controller Server] should fail if no volume id is given",
			"ExpandVolume [Controller Server] should work",
			"Controller Service [Controller Server] CreateVolume should create volume with a volume attribute class",
			"Controller Service [Controller Server] CreateVolume should not create volume with an invalid volume attribute class",
			"ModifyVolume [Controller Server] should fail if no volume id is given",
			"ModifyVolume [Controller Server] should fail if specified mutable parameters are not supported by the volume",
			"ModifyVolume [Controller Server] should fail if volume does not exist",
			"ModifyVolume [Controller Server] should fail to modify a volume created with a volume attribute class" +
				" if new mutable parameters are not supported by volume",
			"ModifyVolume [Controller Server] should modify a volume created with a volume attribute class",
			"ModifyVolume [Controller Server] should modify a volume created without a volume attribute class",
		},
	},
	{
		"a local volume is never attached: CSIDriver has attachRequired false (no PUBLISH_UNPUBLISH_VOLUME)",
		[]string{
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no node id is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume capability is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume id is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when publishing more volumes" +
				" than the node max attach limit",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the node does not exist",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume does not exist",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume is already published but is incompatible",
			"Controller Service [Controller Server] ControllerUnpublishVolume should fail when no volume id is provided",
			"Controller Service [Controller Server] volume lifecycle should be idempotent",
			"Controller Service [Controller Server] volume lifecycle should work",
		},
	},
	{
		"csi-test itself has switched it off: https://github.com/kubernetes-csi/csi-test/issues/223",
		[]string{
			"Controller Service [Controller Server] ListVolumes pagination should detect volumes added between pages" +
				" and accept tokens when the last volume from a page is deleted",
		},
	},
}

// compareSkips returns one line for each difference between a report and the list.
func compareSkips(report ginkgo.Report, configurations []string) (faults []string) {
	// configuration → spec → reason: the listed skips that the report has not shown yet
	missing := map[string]map[string]string{}
	for _, name := range configurations {
		missing[name] = reasons(name)
	}
	for _, spec := range report.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt {
			continue
		}
		name := spec.ContainerHierarchyTexts[0]
		text := strings.Join(append(slices.Clone(spec.ContainerHierarchyTexts[1:]), spec.LeafNodeText),
			" ")
		reason, listed := missing[name][text]
		skipped := spec.State.Is(types.SpecStateSkipped | types.SpecStatePending)
		switch {
		case skipped && !listed:
			faults = append(faults,
				fmt.Sprintf("%s: not listed, but skips (%s): %q", name, spec.Failure.Message, text))
		case listed && !skipped:
			faults = append(faults, fmt.Sprintf("%s: listed (%s), but has run: %q", name, reason, text))
		}
		delete(missing[name], text)
	}
	for _, name := range configurations {
		for _, text := range slices.Sorted(maps.Keys(missing[name])) {
			faults = append(faults, fmt.Sprintf("%s: listed, but csi-test has no such spec: %q", name, text))
		}
	}
	return faults
}

// reasons returns a configuration's list, by spec.
func reasons(configuration string) map[string]string {
	bySpec := map[string]string{}
	for _, skip := range listedSkips {
		if skip.reason == nodeOnly && strings.HasSuffix(configuration, centralSuffix) {
			continue
		}
		for _, spec := range skip.specs {
			bySpec[spec] = skip.reason
		}
	}
	return bySpec
}
