package device

import (
	"fmt"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets cgroups.DevicesSetV1 and V2
	rules "github.com/opencontainers/cgroups/devices/config"
)

// resources allows everything but the other devices' nodes: what a fill job
// may open apart from devices that pipefill hands out is the site's business.
func resources(grants, others []Node) *cgroups.Resources {
	all := []*rules.Rule{{Type: rules.WildcardDevice, Major: rules.Wildcard, Minor: rules.Wildcard, Permissions: "rwm", Allow: true}}
	for _, n := range others {
		all = append(all, rule(n, false))
	}
	for _, n := range grants {
		all = append(all, rule(n, true))
	}
	return &cgroups.Resources{Devices: all}
}

func paths(nodes []Node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Path)
	}
	return strings.Join(all, ", ")
}

func rule(n Node, allow bool) *rules.Rule {
	return &rules.Rule{Type: rules.CharDevice, Major: n.Major, Minor: n.Minor, Permissions: "rwm", Allow: allow}
}

// GrantV1 lets the processes of a v1 devices group open grants and none of
// others.
func GrantV1(dir string, grants, others []Node) error {
	if err := cgroups.DevicesSetV1(dir, resources(grants, others)); err != nil {
		return fmt.Errorf("grant %s: %w", paths(grants), err)
	}
	return nil
}

// GrantV2 does the same with a BPF programme on a v2 group.
func GrantV2(dir string, grants, others []Node) error {
	if err := cgroups.DevicesSetV2(dir, resources(grants, others)); err != nil {
		return fmt.Errorf("grant %s: %w", paths(grants), err)
	}
	return nil
}
