// An OpenTelemetry collector with the components that docs/sinks.md configures, and the exporter
// `lines`, whose file has what the pipeline received.
package main

import (
	"context"
	"log"
	"os"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/bearertokenauthextension"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
	"go.uber.org/zap"
)

type linesConfig struct {
	Path string `mapstructure:"path"`
}

// lines writes each request as a line of JSON, before the sender is answered.
type lines struct {
	component.StartFunc
	component.ShutdownFunc
	consumer.Logs
}

func newLines(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Logs, error) {
	file, err := os.OpenFile(config.(*linesConfig).Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	logs, err := consumer.NewLogs(func(_ context.Context, logs plog.Logs) error {
		line, err := (&plog.JSONMarshaler{}).MarshalLogs(logs)
		if err != nil {
			return consumererror.NewPermanent(err)
		}
		_, err = file.Write(append(line, '\n'))
		return err
	})
	return lines{
		ShutdownFunc: func(context.Context) error { return file.Close() },
		Logs:         logs,
	}, err
}

func factories() (factories otelcol.Factories, err error) {
	// A log on stderr; the collector's usual telemetry doubles what has to be built.
	factories.Telemetry = telemetry.NewFactory(
		func() component.Config { return &struct{}{} },
		telemetry.WithCreateLogger(
			func(context.Context, telemetry.LoggerSettings, component.Config) (*zap.Logger, component.ShutdownFunc, error) {
				logger, err := zap.NewProduction()
				return logger, nil, err
			},
		),
	)
	if factories.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory()); err != nil {
		return
	}
	factories.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](bearertokenauthextension.NewFactory())
	if err != nil {
		return
	}
	factories.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](
		debugexporter.NewFactory(),
		exporter.NewFactory(
			component.MustNewType("lines"),
			func() component.Config { return &linesConfig{} },
			exporter.WithLogs(newLines, component.StabilityLevelDevelopment),
		),
	)
	return
}

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{envprovider.NewFactory(), fileprovider.NewFactory()},
		}},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}
