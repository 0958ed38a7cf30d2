// SPDX-License-Identifier: Apache-2.0

package board

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/barchart"
	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

const (
	columns   = 24
	rowHeight = 1
	tag       = "otelcol-gpu"
)

// source is the data source that the reader chooses at the top.
func source(kind, variable string) common.DataSourceRef {
	return common.DataSourceRef{Type: &kind, Uid: cog.ToPtr("${" + variable + "}")}
}

// Grafana writes a dashboard as JSON.
func (d *Dashboard) Grafana() ([]byte, error) {
	// The second version of the schema cannot be imported before Grafana 12.
	b := dashboard.NewDashboardBuilder(d.Title) //nolint:staticcheck // see above
	b.Uid(d.UID()).Description(d.Description).Tags([]string{tag}).Editable().Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Time(d.From, "now").Refresh("30s").Timezone("browser")
	b.Link(visible{dashboard.NewDashboardLinkBuilder("GPU dashboards").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{tag}).
		AsDropdown(true).IncludeVars(true).KeepTime(true)})
	b.Link(visible{dashboard.NewDashboardLinkBuilder("Runbooks").Type(dashboard.DashboardLinkTypeLink).Icon("doc").
		Url(Runbooks + "README.md").TargetBlank(true)})
	for _, v := range d.Variables {
		b.WithVariable(v.builder())
	}
	id, y := uint32(1), uint32(0)
	for _, row := range d.Rows {
		b.WithRow(dashboard.NewRowBuilder(row.Title).Id(id).GridPos(dashboard.GridPos{X: 0, Y: y, W: columns, H: rowHeight}))
		id, y = id+1, y+rowHeight
		x, height := uint32(0), uint32(0)
		for i := range row.Panels {
			p := &row.Panels[i]
			if x+p.Width > columns {
				x, y, height = 0, y+height, 0
			}
			panel, err := p.build(id, dashboard.GridPos{X: x, Y: y, W: p.Width, H: p.Height})
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", d.Name, p.Title, err)
			}
			b.WithPanel(built{panel})
			id, x, height = id+1, x+p.Width, max(height, p.Height)
		}
		y += height
	}
	built, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	return encode(built)
}

// encode writes JSON that a reader can compare.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	err := e.Encode(v)
	return out.Bytes(), err
}

// built is a builder of what is there already.
type built struct{ panel dashboard.Panel }

// Build implements cog.Builder.
func (b built) Build() (dashboard.Panel, error) { return b.panel, nil }

func (v Variable) builder() cog.Builder[dashboard.VariableModel] {
	if v.Query == "" {
		kind := map[string]string{"datasource": "prometheus"}[v.Name]
		if kind == "" {
			kind = v.Name // tempo, jaeger
		}
		return dashboard.NewDatasourceVariableBuilder(v.Name).Label(v.Label).Type(kind)
	}
	b := dashboard.NewQueryVariableBuilder(v.Name).Label(v.Label).Datasource(source("prometheus", "datasource")).
		Query(dashboard.StringOrMap{String: cog.ToPtr(v.Query)}).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortNaturalAsc)
	if v.Single {
		return b
	}
	all := dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}}
	return b.Multi(true).IncludeAll(true).AllValue(".*").Current(dashboard.VariableOption{
		Text: dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}}, Value: all})
}

// commonBuilder is what every builder of a panel has.
type commonBuilder[B any] interface {
	cog.Builder[dashboard.Panel]
	Id(uint32) B
	Title(string) B
	Description(string) B
	GridPos(dashboard.GridPos) B
	Datasource(common.DataSourceRef) B
	Unit(string) B
	NoValue(string) B
	Min(float64) B
	Max(float64) B
	Mappings([]dashboard.ValueMapping) B
	DataLinks([]cog.Builder[dashboard.DashboardLink]) B
	WithTarget(cog.Builder[variants.Dataquery]) B
	WithTransformation(dashboard.DataTransformerConfig) B
	OverrideByName(string, []dashboard.DynamicConfigValue) B
	OverrideByQuery(string, []dashboard.DynamicConfigValue) B
	Thresholds(cog.Builder[dashboard.ThresholdsConfig]) B
}

func (p *Panel) build(id uint32, at dashboard.GridPos) (dashboard.Panel, error) {
	instant := common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})
	legend := common.NewVizLegendOptionsBuilder().ShowLegend(true).Placement(common.LegendPlacementBottom)
	switch p.Kind {
	case TimeSeries:
		b := timeseries.NewPanelBuilder().LineWidth(1).FillOpacity(8).ShowPoints(common.VisibilityModeAuto).
			Legend(legend.DisplayMode(common.LegendDisplayModeTable).Calcs([]string{"min", "mean", "max", "lastNotNull"})).
			Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
		return fill(p, b, id, at)
	case Heatmap:
		return fill(p, heatmap.NewPanelBuilder().YAxis(heatmap.NewYAxisConfigBuilder().Unit(p.Unit)), id, at)
	case StateTimeline:
		return fill(p, statetimeline.NewPanelBuilder().MergeValues(true).ShowValue(common.VisibilityModeNever).
			Legend(legend.DisplayMode(common.LegendDisplayModeList)), id, at)
	case Stat:
		b := stat.NewPanelBuilder().ReduceOptions(instant).GraphMode(common.BigValueGraphModeNone).ColorMode(common.BigValueColorModeValue)
		if p.Queries[0].Legend != "" {
			b.TextMode(common.BigValueTextModeValueAndName)
		}
		return fill(p, b, id, at)
	case BarGauge:
		return fill(p, bargauge.NewPanelBuilder().ReduceOptions(instant).Orientation(common.VizOrientationHorizontal), id, at)
	case BarChart:
		b := barchart.NewPanelBuilder().XField(p.Category).Legend(legend.ShowLegend(false))
		// Sorted as numbers, and drawn as texts.
		for _, t := range []dashboard.DataTransformerConfig{convert(p.Category, "number"), {Id: "sortBy", Options: map[string]any{"sort": []any{map[string]any{"field": p.Category}}}}, convert(p.Category, "string")} {
			b.WithTransformation(t)
		}
		return fill(p, b, id, at)
	case Table:
		return fill(p, table.NewPanelBuilder().Footer(common.NewTableFooterOptionsBuilder().Show(false).Reducer([]string{"sum"})), id, at)
	}
	return dashboard.Panel{}, fmt.Errorf("%q is not a valid kind of panel", p.Kind)
}

// fill sets what every kind of panel has.
func fill[B commonBuilder[B]](p *Panel, b B, id uint32, at dashboard.GridPos) (dashboard.Panel, error) {
	colour := "text"
	if p.Kind == BarGauge || p.Kind == BarChart {
		colour = "blue"
	}
	b.Id(id).Title(p.Title).Description(p.Description).GridPos(at).Datasource(source("prometheus", "datasource")).
		Unit(p.Unit).NoValue(p.Absent).Thresholds(dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).
		Steps([]dashboard.Threshold{{Color: colour}}))
	if p.Kind == TimeSeries {
		b.Min(0)
	}
	if p.Max > 0 {
		b.Max(p.Max)
	}
	if len(p.Values) > 0 {
		options := map[string]dashboard.ValueMappingResult{}
		for i, v := range p.Values {
			options[v.Number] = dashboard.ValueMappingResult{Text: &v.Text, Color: &v.Color, Index: cog.ToPtr(int32(i))}
		}
		b.Mappings([]dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: options}}})
	}
	if len(p.Links) > 0 {
		links := make([]cog.Builder[dashboard.DashboardLink], 0, len(p.Links))
		for _, l := range p.Links {
			links = append(links, l.builder())
		}
		b.DataLinks(links)
	}
	for i, q := range p.Queries {
		b.WithTarget(p.target(i, q))
		if q.RightUnit != "" {
			b.OverrideByQuery(refID(i), []dashboard.DynamicConfigValue{{Id: "unit", Value: q.RightUnit}, {Id: "custom.axisPlacement", Value: "right"}})
		}
	}
	fillTable(p, b)
	return b.Build()
}

func (l *Link) builder() cog.Builder[dashboard.DashboardLink] {
	return visible{dashboard.NewDashboardLinkBuilder(l.Title).Type(dashboard.DashboardLinkTypeLink).Url(l.URL).TargetBlank(true)}
}

// visible builds a link above the panels. The SDK's default hides it in a menu.
type visible struct {
	*dashboard.DashboardLinkBuilder
}

// Build implements cog.Builder.
func (v visible) Build() (dashboard.DashboardLink, error) {
	l, err := v.DashboardLinkBuilder.Build()
	l.Placement = nil
	return l, err
}

func refID(i int) string { return string(rune('A' + i)) }

// ranges reports whether a panel's queries are of the time range.
func (p *Panel) ranges() bool {
	return p.Kind == TimeSeries || p.Kind == Heatmap || p.Kind == StateTimeline
}

func (p *Panel) target(i int, q Query) *prometheus.DataqueryBuilder {
	b := prometheus.NewDataqueryBuilder().RefId(refID(i)).Expr(grafanaExpr(q.Expr)).Datasource(source("prometheus", "datasource")).
		EditorMode(prometheus.QueryEditorModeCode)
	if p.ranges() {
		b.Range()
	} else {
		b.Instant()
	}
	switch p.Kind {
	case Table, BarChart:
		b.Format(prometheus.PromQueryFormatTable)
	case Heatmap:
		b.Format(prometheus.PromQueryFormatHeatmap)
	}
	if q.Legend != "" {
		b.LegendFormat(q.Legend)
	}
	if q.Exemplars {
		b.Exemplar(true)
	}
	return b
}

// convert changes the type of a field.
func convert(field, kind string) dashboard.DataTransformerConfig {
	return dashboard.DataTransformerConfig{Id: "convertFieldType", Options: map[string]any{"conversions": []any{map[string]any{"targetField": field, "destinationType": kind}}}}
}

// fillTable joins a table's queries by their labels, and names, orders and links its columns.
func fillTable[B commonBuilder[B]](p *Panel, b B) {
	if p.Kind != Table {
		return
	}
	if len(p.Queries) > 1 {
		b.WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}})
	}
	order, shown := map[string]any{}, make([]any, 0, len(p.Columns))
	for i, c := range p.Columns {
		order[c.Field] = i
		shown = append(shown, c.Field)
		properties := []dashboard.DynamicConfigValue{{Id: "displayName", Value: c.Title}}
		if c.Unit != "" {
			properties = append(properties, dashboard.DynamicConfigValue{Id: "unit", Value: c.Unit})
		}
		if c.Link != nil {
			properties = append(properties, dashboard.DynamicConfigValue{Id: "links", Value: []any{map[string]any{"title": c.Link.Title, "url": c.Link.URL}}})
		}
		b.OverrideByName(c.Field, properties)
	}
	b.WithTransformation(dashboard.DataTransformerConfig{Id: "filterFieldsByName", Options: map[string]any{"include": map[string]any{"names": shown}}})
	b.WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{"indexByName": order, "excludeByName": map[string]any{}, "renameByName": map[string]any{}}})
}
