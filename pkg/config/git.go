package config

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/gitsource"
	"github.com/csi-hostpath/csi-hostpath/pkg/volume"
)

const (
	maxGitSources   = 256
	maxGitAddresses = 64
	minGitPeriod    = time.Second
	maxGitPeriod    = 8760 * time.Hour
)

// checkGitSources refuses rules that mean nothing, or could mean two things.
func (c Config) checkGitSources(f *faults) {
	if len(c.GitSources) > maxGitSources {
		f.addf("gitSources", "%d rules, at most %d are allowed", len(c.GitSources), maxGitSources)
		return
	}
	for i, g := range c.GitSources {
		at := fmt.Sprintf("gitSources[%d].", i)
		if _, err := volume.ParseGitPrefix(g.URLPrefix); err != nil {
			f.addf(at+"urlPrefix", "%s: %v", quote(volume.WithoutPassword(g.URLPrefix)), err)
		}
		checkNamespaces(f, at, g.Namespaces)
		if g.MaxSize <= 0 || g.MaxSize > volume.MaxCapacityBytes {
			f.addf(at+"maxSize", "%d must be a size of 1 byte or more, such as 1Gi", g.MaxSize)
		}
		if g.MinPeriod < minGitPeriod || g.MinPeriod > maxGitPeriod {
			f.addf(at+"minPeriod", "%v must be %v to %v", g.MinPeriod, minGitPeriod, maxGitPeriod)
		}
		g.checkAddresses(f, at)
	}
}

func (g GitSource) checkAddresses(f *faults, at string) {
	if len(g.Addresses) > maxGitAddresses {
		f.addf(at+"addresses", "%d networks, at most %d are allowed", len(g.Addresses), maxGitAddresses)
	}
	for i, text := range g.Addresses {
		if network, err := netip.ParsePrefix(text); err != nil || network.Masked() != network {
			f.addf(fmt.Sprintf("%saddresses[%d]", at, i),
				"%s must be a network, such as 10.0.0.0/8, or 10.1.2.3/32 for one address", quote(text))
		}
	}
}

// GitRules are the operator's rules. The configuration has been validated.
func (c Config) GitRules() *gitsource.Rules {
	rules := make([]gitsource.Rule, 0, len(c.GitSources))
	for _, g := range c.GitSources {
		prefix, _ := volume.ParseGitPrefix(g.URLPrefix)
		rule := gitsource.Rule{
			Prefix: prefix, Namespaces: g.Namespaces, MaxSizeBytes: g.MaxSize, MinPeriod: g.MinPeriod,
		}
		for _, text := range g.Addresses {
			if network, err := netip.ParsePrefix(text); err == nil {
				rule.Addresses = append(rule.Addresses, network)
			}
		}
		rules = append(rules, rule)
	}
	return gitsource.NewRules(rules)
}
