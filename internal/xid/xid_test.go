// SPDX-License-Identifier: Apache-2.0

package xid

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCatalogueHasTheTiers(t *testing.T) {
	c, err := Load()
	require.NoError(t, err)
	for n, tier := range map[uint64]Tier{79: Reboot, 119: Reset, 48: Workflow, 31: Application, 45: Informational, 130: Application, 9999: Unknown} {
		e := c.Find(n)
		assert.Equal(t, tier, e.Tier, n)
		assert.NotEmpty(t, e.Name)
		assert.NotEmpty(t, e.Advice)
		assert.NotZero(t, e.Severity)
		assert.Equal(t, n, e.XID)
	}
	assert.Len(t, c.Critical(), 16)
	assert.Equal(t, "46", c.Critical()[0])
}

func TestEveryEventHasItsSeverityAndAdvice(t *testing.T) {
	c, err := Load()
	require.NoError(t, err)
	assert.Len(t, c.Events, 11)
	for kind, meaning := range c.Events {
		assert.NotZero(t, meaning.Severity, kind)
		assert.NotEmpty(t, meaning.Advice, kind)
	}
	assert.Equal(t, Severity(plog.SeverityNumberError2), c.Events["poison_fatal"].Severity)
	var s Severity
	require.EqualError(t, s.UnmarshalText([]byte("bad")), `"bad" is not a valid severity`)
}
