{{- /* The namespace of everything but the release's own records. */ -}}
{{- define "keyhole.namespace" -}}
{{- .Values.namespaceOverride | default (ternary "keyhole" .Release.Namespace (eq .Values.component "policies")) -}}
{{- end -}}

{{- define "keyhole.selectorLabels" -}}
app.kubernetes.io/name: keyhole
app.kubernetes.io/instance: keyhole
{{- end -}}

{{- define "keyhole.commonLabels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ include "keyhole.strings" (list $ . true) }}
{{- end }}
{{- end -}}

{{- /* A map whose values are strings, as YAML: (list $ map true) where they are templates. Each value is one by itself, so that it
cannot end before the map does. */ -}}
{{- define "keyhole.strings" -}}
{{- $root := index . 0 -}}
{{- $templates := index . 2 -}}
{{- $found := dict -}}
{{- range $key, $value := index . 1 -}}
{{- $text := toString $value -}}
{{- /* Numbers of a file are floating-point, as 1e+06. */ -}}
{{- if and (kindIs "float64" $value) (eq $value (float64 (int64 $value))) }}{{ $text = toString (int64 $value) }}{{ end -}}
{{- if $templates }}{{ $text = tpl $text $root }}{{ end -}}
{{- $_ := set $found $key $text -}}
{{- end -}}
{{- toYaml $found -}}
{{- end -}}

{{- /* Labels of the objects that belong to the exporter. */ -}}
{{- define "keyhole.labels" -}}
{{ include "keyhole.selectorLabels" . }}
app.kubernetes.io/part-of: keyhole
app.kubernetes.io/component: exporter
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "keyhole.commonLabels" . }}
{{- end -}}

{{- /* An image: (list $ "broker"). */ -}}
{{- define "keyhole.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- $own := index $image (index . 1) -}}
{{- $registry := $root.Values.global.imageRegistry | default $image.registry -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $own.repository -}}
{{- if $own.digest }}@{{ $own.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- /* Names of Secrets, strings or objects, as a list of objects. */ -}}
{{- define "keyhole.pullSecrets" -}}
{{- range . }}
- name: {{ if kindIs "string" . }}{{ . | quote }}{{ else }}{{ .name | quote }}{{ end }}
{{- end }}
{{- end -}}

{{- define "keyhole.serviceAccountPullSecrets" -}}
{{ include "keyhole.pullSecrets" (concat (.Values.serviceAccount.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) (.Values.global.imagePullSecrets | default list)) | trim }}
{{- end -}}

{{- /* The names of the flags among the arguments, without -- and values, as a list in JSON. */ -}}
{{- define "keyhole.flagNames" -}}
{{- $names := list -}}
{{- range . -}}
{{- if hasPrefix "--" (toString .) -}}
{{- $names = append $names (index (splitList "=" (trimPrefix "--" (toString .))) 0) -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{- /* The exporter's arguments, as YAML. One's own come last and replace those of the chart that they contradict. */ -}}
{{- define "keyhole.exporterArgs" -}}
{{- $own := list -}}
{{- range .Values.extraArgs }}{{ $own = append $own (toString .) }}{{ end -}}
{{- $names := include "keyhole.flagNames" $own | fromJsonArray -}}
{{- $args := list -}}
{{- /* The host's os-release is not mounted, and the image has none. */ -}}
{{- if not (or (has "collector.os" $names) (has "no-collector.os" $names)) -}}
{{- $args = append $args "--no-collector.os" -}}
{{- end -}}
{{- /* kube-prometheus-stack's, and k3s' and CRI-O's directories: mounts of pods are no file systems of the node's own. */ -}}
{{- if not (or (has "collector.filesystem.mount-points-exclude" $names) (has "collector.filesystem.mount-points-include" $names) (has "collector.filesystem.ignored-mount-points" $names)) -}}
{{- $args = append $args "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys|run/containerd/.+|run/k3s/containerd/.+|var/lib/docker/.+|var/lib/containers/storage/.+|var/lib/kubelet/.+)($|/)" -}}
{{- end -}}
{{- if and .Values.root (not (has "collector.slabinfo" $names)) (not (has "no-collector.slabinfo" $names)) -}}
{{- $args = append $args "--collector.slabinfo" -}}
{{- end -}}
{{- if ne (int .Values.service.port) 9100 -}}
{{- $args = append $args (printf "--web.listen-address=:%d" (int .Values.service.port)) -}}
{{- end -}}
{{- if .Values.textfile.enabled -}}
{{- $args = append $args "--collector.textfile.directory=/textfile" -}}
{{- end -}}
{{- if .Values.webConfig.enabled -}}
{{- $args = concat $args (list "--web.config.file=/web-config/web-config.yml" "--web.health-address=:9101") -}}
{{- end -}}
{{- toYaml (concat $args $own) -}}
{{- end -}}

{{- /* The queries that the exporter's collectors ask beyond the default ones, as a list in JSON, sorted. */ -}}
{{- define "keyhole.queries" -}}
{{- $names := include "keyhole.flagNames" (include "keyhole.exporterArgs" . | fromYamlArray) | fromJsonArray -}}
{{- $queries := list -}}
{{- range (.Files.Get "files/collectors.yaml" | fromYaml).queries -}}
{{- $on := and (or .default (has (printf "collector.%s" .collector) $names)) (not (has (printf "no-collector.%s" .collector) $names)) -}}
{{- $wanted := empty .flags -}}
{{- range .flags }}{{ if has . $names }}{{ $wanted = true }}{{ end }}{{ end -}}
{{- if and $on $wanted }}{{ $queries = concat $queries .queries }}{{ end -}}
{{- end -}}
{{- toJson ($queries | uniq | sortAlpha) -}}
{{- end -}}

{{- /* The broker's arguments, as YAML. */ -}}
{{- define "keyhole.brokerArgs" -}}
{{- $queries := include "keyhole.queries" . | fromJsonArray -}}
{{- $words := list "default" -}}
{{- range $queries }}{{ $words = append $words (printf "+%s" .) }}{{ end -}}
{{- $args := list (printf "--queries=%s" (join "," $words)) "--allow-uid=64647" "--filesystem.probe-directory=/probe/kubelet" -}}
{{- if ne .Values.access "minimal" -}}
{{- $args = concat $args (list "--path.procfs=/host/proc" "--path.sysfs=/host/sys") -}}
{{- end -}}
{{- $processes := (.Files.Get "files/collectors.yaml" | fromYaml).processes -}}
{{- $each := false -}}
{{- range $queries }}{{ if has . $processes }}{{ $each = true }}{{ end }}{{ end -}}
{{- if $each -}}
{{- $args = append $args "--allow-processes" -}}
{{- end -}}
{{- if .Values.root -}}
{{- $args = append $args "--allow-root" -}}
{{- end -}}
{{- if .Values.udev.enabled -}}
{{- $args = append $args "--path.udev.data=/host/udev" -}}
{{- end -}}
{{- range .Values.broker.extraArgs }}{{ $args = append $args (toString .) }}{{ end -}}
{{- toYaml $args -}}
{{- end -}}

{{- /* The host's directories that are mounted, as a list in JSON: name, path, type and the container. */ -}}
{{- define "keyhole.hostDirectories" -}}
{{- $found := list -}}
{{- if ne .Values.access "minimal" -}}
{{- $found = append $found (dict "name" "proc" "path" "/proc" "type" "Directory" "container" "broker") -}}
{{- $found = append $found (dict "name" "sys" "path" "/sys" "type" "Directory" "container" "broker") -}}
{{- if .Values.udev.enabled -}}
{{- $found = append $found (dict "name" "udev" "path" "/run/udev/data" "type" "Directory" "container" "broker") -}}
{{- end -}}
{{- if .Values.textfile.enabled -}}
{{- $found = append $found (dict "name" "textfile" "path" .Values.textfile.path "type" "DirectoryOrCreate" "container" "exporter") -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{- /* Affinity: one's own, with the default node affinity unless it has required terms of its own. */ -}}
{{- define "keyhole.affinity" -}}
{{- $own := .Values.affinity | default dict -}}
{{- $required := ($own.nodeAffinity | default dict).requiredDuringSchedulingIgnoredDuringExecution -}}
{{- $default := list (dict "matchExpressions" (list
  (dict "key" "eks.amazonaws.com/compute-type" "operator" "NotIn" "values" (list "fargate"))
  (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet")))) -}}
{{- $affinity := deepCopy $own -}}
{{- if empty $required -}}
{{- $node := dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $default)) -}}
{{- $affinity = mergeOverwrite $affinity $node -}}
{{- end -}}
{{- toYaml $affinity -}}
{{- end -}}

{{- /* The collectors among the arguments that Keyhole does not have, with the reason, as a list in JSON. */ -}}
{{- define "keyhole.withoutEffect" -}}
{{- $names := include "keyhole.flagNames" .Values.extraArgs | fromJsonArray -}}
{{- $lines := list -}}
{{- range $name, $reason := (.Files.Get "files/collectors.yaml" | fromYaml).unsupported -}}
{{- if has $name $names }}{{ $lines = append $lines (printf "extraArgs: --%s has no effect: %s" $name $reason) }}{{ end -}}
{{- end -}}
{{- toJson $lines -}}
{{- end -}}
