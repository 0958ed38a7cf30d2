// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// companion is a program beside the main job, for which nothing waits.
type companion struct {
	name      string // of its tool, too
	use       string
	ready     string // a URL that answers 200 once it is up
	page      string // where it is seen
	arguments []string
}

// companions are vmalert, VictoriaLogs and Alertmanager. They are built while samples arrive,
// one after the other, and what is still being built at the end is stopped.
type companions struct {
	*settings
	all     []companion
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// newCompanions prepares those of a store at a URL; start starts them.
func (s *settings) newCompanions(store string) (*companions, error) {
	grouping, err := s.alertmanagerConfig()
	if err != nil {
		return nil, err
	}
	local := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	return &companions{settings: s, cancel: func() {}, all: []companion{
		{
			"vmalert", "alerts", "http://" + local(s.vmalertPort) + "/health", s.alertsPage(store) + "   (what fires)",
			[]string{
				"-rule=" + filepath.Join(s.root, "deploy", "prometheus", "rules", "*.yaml"), "-datasource.url=" + store, "-remoteWrite.url=" + store, "-remoteRead.url=" + store,
				"-notifier.url=" + s.alertmanager(), "-httpListenAddr=" + local(s.vmalertPort), "-external.url=" + store, "-evaluationInterval=15s", "-rule.evalDelay=0s",
				"-disableAlertgroupLabel", "-loggerLevel=WARN",
			},
		},
		{
			"victoria-logs", "logs", s.logStore() + "/health", s.logStore() + "/select/vmui/   (XIDs, other events of the GPUs, failed prompts)",
			[]string{"-httpListenAddr=" + local(s.logsPort), "-storageDataPath=" + filepath.Join(s.folder, "logs"), "-retentionPeriod=30d", "-loggerLevel=WARN"},
		},
		{
			"alertmanager", "messages", s.alertmanager() + "/-/ready", s.amtool() + "   (it routes and groups like deploy/alertmanager, but has no receivers)",
			[]string{
				"--config.file=" + grouping, "--storage.path=" + filepath.Join(s.folder, "alertmanager"), "--web.listen-address=" + local(s.alertmanagerPort),
				"--cluster.listen-address=", "--log.level=warn",
			},
		},
	}}, nil
}

func (s *settings) alertmanager() string {
	return fmt.Sprintf("http://127.0.0.1:%d", s.alertmanagerPort)
}
func (s *settings) logStore() string { return fmt.Sprintf("http://127.0.0.1:%d", s.logsPort) }

// alertsPage is the store's page of the alerts that fire.
func (s *settings) alertsPage(store string) string { return store + "/vmui/#/rules?states=firing" }

// amtool is the command that lists the alerts.
func (s *settings) amtool() string {
	return "$(scripts/tool.sh amtool) alert query --alertmanager.url=" + s.alertmanager()
}

// alertmanagerConfig writes the shipped configuration of Alertmanager without what is sent:
// routes, grouping and inhibition stay.
func (s *settings) alertmanagerConfig() (path string, err error) {
	text, err := os.ReadFile(filepath.Join(s.root, "deploy", "alertmanager", "alertmanager.yml"))
	if err != nil {
		return "", err
	}
	var shipped struct {
		Route     map[string]any
		Receivers []struct{ Name string }
		Inhibit   []any `yaml:"inhibit_rules"`
	}
	if err := yaml.Unmarshal(text, &shipped); err != nil {
		return "", fmt.Errorf("deploy/alertmanager/alertmanager.yml: %w", err)
	}
	text, err = yaml.Marshal(map[string]any{"route": shipped.Route, "receivers": shipped.Receivers, "inhibit_rules": shipped.Inhibit})
	if err != nil {
		return "", err
	}
	path = filepath.Join(s.folder, "alertmanager.yml")
	return path, os.WriteFile(path, text, 0o600)
}

// start builds and starts them in the background.
func (c *companions) start(ctx context.Context) {
	ctx, c.cancel = context.WithCancel(ctx)
	c.running.Go(func() {
		for i := range c.all {
			c.run(ctx, &c.all[i])
		}
	})
}

// end stops what runs and what is being built.
func (c *companions) end() {
	c.cancel()
	c.running.Wait()
}

// run starts one, reports it once it is up, and has it end with the context. That one is
// missing is no failure of the main job.
func (c *companions) run(ctx context.Context, program *companion) {
	path, err := stack.Tool(ctx, c.root, program.name)
	if err != nil {
		c.missing(ctx, program, err)
		return
	}
	p, err := stack.Start(c.folder, program.name, path, nil, program.arguments...)
	if err != nil {
		c.missing(ctx, program, err)
		return
	}
	c.running.Go(func() {
		defer end(p)
		select {
		case <-p.Exited():
			c.missing(ctx, program, fmt.Errorf("exited:\n%s", p.Tail()))
		case <-ctx.Done():
		}
	})
	if p.WaitHTTP(ctx, program.ready) == nil {
		fmt.Printf("%-10s %s\n", program.use, program.page)
	}
}

func (c *companions) missing(ctx context.Context, program *companion, err error) {
	if ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "%s is not running, so there are no %s: %v\n", program.name, program.use, err)
	}
}
