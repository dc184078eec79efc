package artifact

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

// component is something that an artifact contains.
type component struct {
	name, version, purl, supplier string
}

// SBOM lists what an artifact contains, in SPDX 2.3: Debian's packages, the Go modules that the
// programs say they were built from, and Go's own library.
func (s Source) SBOM(artifact string, programs []Program, packages []debian.Package) ([]byte, error) {
	components := append(goComponents(programs), debianComponents(packages)...)
	slices.SortFunc(components, func(a, b component) int { return cmp.Compare(a.purl, b.purl) })
	components = slices.Compact(components)

	root := spdx.Package{
		PackageName: "csi-hostpath", PackageSPDXIdentifier: "artifact", PackageVersion: s.Version,
		PackageDownloadLocation: s.Asset(artifact), PackageLicenseDeclared: "Apache-2.0",
		PackageLicenseConcluded: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
	}
	document := spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName: artifact, DocumentNamespace: s.Asset(artifact) + ".spdx.json",
		CreationInfo: &spdx.CreationInfo{
			Created:  s.Time.Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "csi-hostpath-tools-release"}},
		},
		Packages: []*spdx.Package{&root},
		Relationships: []*spdx.Relationship{
			relationship("DOCUMENT", common.TypeRelationshipDescribe, "artifact"),
		},
	}
	for i, part := range components {
		id := common.ElementID(fmt.Sprintf("Package-%d-%s", i+1, identifier(part.name)))
		document.Packages = append(document.Packages, part.spdx(id))
		document.Relationships = append(document.Relationships,
			relationship("artifact", common.TypeRelationshipContains, id))
	}
	var content bytes.Buffer
	encoder := json.NewEncoder(&content)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	err := encoder.Encode(document)
	return content.Bytes(), err
}

var notInIdentifiers = regexp.MustCompile(`[^A-Za-z0-9.]+`)

func identifier(name string) string { return notInIdentifiers.ReplaceAllString(name, "-") }

func relationship(from common.ElementID, kind string, to common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{
		RefA:         common.DocElementID{ElementRefID: from},
		RefB:         common.DocElementID{ElementRefID: to},
		Relationship: kind,
	}
}

func (c component) spdx(id common.ElementID) *spdx.Package {
	pkg := &spdx.Package{
		PackageName: c.name, PackageSPDXIdentifier: id, PackageVersion: c.version,
		PackageDownloadLocation: "NOASSERTION", PackageLicenseConcluded: "NOASSERTION",
		PackageLicenseDeclared: "NOASSERTION", PackageCopyrightText: "NOASSERTION",
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: c.purl,
		}},
	}
	if c.supplier != "" {
		pkg.PackageSupplier = &common.Supplier{SupplierType: "Organization", Supplier: c.supplier}
	}
	return pkg
}

func goComponents(programs []Program) []component {
	var components []component
	add := func(path, version string) {
		components = append(components,
			component{name: path, version: version, purl: "pkg:golang/" + path + "@" + version})
	}
	for _, program := range programs {
		add("stdlib", strings.TrimPrefix(program.Build.GoVersion, "go"))
		for _, module := range program.Build.Deps {
			if module.Replace != nil {
				module = module.Replace
			}
			if module.Version == "" {
				continue // this repository's own
			}
			add(module.Path, module.Version)
		}
	}
	return components
}

func debianComponents(packages []debian.Package) []component {
	components := make([]component, 0, len(packages))
	for _, pkg := range packages {
		version := strings.NewReplacer("+", "%2B", ":", "%3A").Replace(pkg.Version)
		components = append(components, component{
			name: pkg.Name, version: pkg.Version, supplier: "Debian",
			purl: fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&upstream=%s", pkg.Name, version,
				pkg.Architecture, pkg.Source),
		})
	}
	return components
}
