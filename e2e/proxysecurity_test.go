// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// certificate makes a certificate for loopback that signs itself.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return certFile, keyFile, pool
}

// TestProxyWithTLSAndAToken puts the collector's own TLS and authentication in front
// of ComfyUI: requests and sockets with the token pass, all others are refused,
// and the prompt is followed as without. The token is in no log.
func TestProxyWithTLSAndAToken(t *testing.T) {
	beside(t, working)
	ctx := withPatience(t)
	var leaked atomic.Bool
	upstream := simulatedComfyUISeen(t, func(r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
	})
	j := startJaeger(t)
	m := newMachine(t, fakenvml.Current, "l40s")
	cert, key, pool := certificate(t)
	const token = "a-token-of-this-test"
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	c := collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+upstream, "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp, "TOKEN="+token),
		"--config=yaml:extensions::bearertokenauth::token: ${env:TOKEN}",
		"--config=yaml:service::extensions: [health_check, shutdown_limit, queue_check/queue, file_storage/queue, queue_check/comfyui, file_storage/comfyui, bearertokenauth]",
		"--config=yaml:receivers::comfyui::proxy: {tls: {cert_file: "+cert+", key_file: "+key+"}, auth: {authenticator: bearertokenauth}}")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	ask := func(method, path, body string, header http.Header) int {
		request, err := http.NewRequestWithContext(ctx, method, "https://"+proxy+path, strings.NewReader(body))
		require.NoError(t, err)
		request.Header = header
		response, err := client.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	mine := http.Header{"Authorization": {"Bearer " + token}}
	assert.Equal(t, http.StatusUnauthorized, ask(http.MethodGet, "/queue", "", http.Header{}))
	assert.Equal(t, http.StatusUnauthorized, ask(http.MethodGet, "/queue", "", http.Header{"Authorization": {"Bearer another"}}))
	assert.Equal(t, http.StatusOK, ask(http.MethodGet, "/queue", "", mine.Clone()))

	dial := func(header http.Header) (*websocket.Conn, error) {
		conn, response, err := websocket.Dial(ctx, "wss://"+proxy+"/ws?clientId=a", &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
		if err != nil && response != nil && response.Body != nil {
			_ = response.Body.Close()
		}
		return conn, err
	}
	_, err := dial(nil)
	require.ErrorContains(t, err, "401")
	conn, err := dial(mine.Clone())
	require.NoError(t, err)
	defer func() { _ = conn.CloseNow() }()
	const prompt = `{"client_id": "a", "prompt": {
		"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "DDColor_Colorize", "inputs": {"image": ["1", 0], "model_input_size": 512, "checkpoint": "ddcolor_paper.pth"}},
		"3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}}}}`
	assert.Equal(t, http.StatusUnauthorized, ask(http.MethodPost, "/prompt", prompt, http.Header{}))
	assert.Equal(t, http.StatusOK, ask(http.MethodPost, "/prompt", prompt, mine.Clone()))
	for {
		_, text, err := conn.Read(ctx)
		require.NoError(t, err)
		if strings.Contains(string(text), "execution_success") {
			break
		}
	}
	assert.False(t, leaked.Load(), "the token is the proxy's and does not reach ComfyUI")
	require.Eventually(t, func() bool {
		return j.hasSpan("comfyui.node DDColor_Colorize", func(*jaegerSpan) bool { return true })
	}, patience, 1e8)
	assert.Zero(t, logLines(t, c.Process, token))
}
