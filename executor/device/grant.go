package device

import (
	"fmt"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets cgroups.DevicesSetV1 and V2
	rules "github.com/opencontainers/cgroups/devices/config"
)

// resources allows everything but the other devices' nodes: what a fill job
// may open apart from devices that pipefill hands out is the site's business.
func resources(grant Node, others []Node) *cgroups.Resources {
	all := []*rules.Rule{{Type: rules.WildcardDevice, Major: rules.Wildcard, Minor: rules.Wildcard, Permissions: "rwm", Allow: true}}
	for _, n := range others {
		all = append(all, rule(n, false))
	}
	return &cgroups.Resources{Devices: append(all, rule(grant, true))}
}

func rule(n Node, allow bool) *rules.Rule {
	return &rules.Rule{Type: rules.CharDevice, Major: n.Major, Minor: n.Minor, Permissions: "rwm", Allow: allow}
}

// GrantV1 lets the processes of a v1 devices group open grant and none of
// others.
func GrantV1(dir string, grant Node, others []Node) error {
	if err := cgroups.DevicesSetV1(dir, resources(grant, others)); err != nil {
		return fmt.Errorf("grant %s: %w", grant.Path, err)
	}
	return nil
}

// GrantV2 does the same with a BPF programme on a v2 group.
func GrantV2(dir string, grant Node, others []Node) error {
	if err := cgroups.DevicesSetV2(dir, resources(grant, others)); err != nil {
		return fmt.Errorf("grant %s: %w", grant.Path, err)
	}
	return nil
}
