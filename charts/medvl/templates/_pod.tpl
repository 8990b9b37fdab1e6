{{/*
The pod template of the coordinator and of all stages. Takes
  root, image       the scope, and the key of the image
  stage             the key of the stage's values, which is also the component, unless that is given
and may take
  container, args   the main container; the coordinator gives the arguments to those that it creates
  runConfigMap      name of the plan; the coordinator fills in that of those that it creates
  env               the stage's own variables
  account           coordinator, for a pod that talks to the API server
  restartPolicy     not in a PyTorchJob, which has its own
  model             load: /models is there, and filled; fill: it is to be filled
  gpus, rdma        a number, and the values of train.rdma
  port              of a page that is served there, with /livez and /readyz
*/}}
{{- define "medvl.podTemplate" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $cache := $values.modelCache -}}
{{- $loads := eq "load" (default "" .model) -}}
{{- $fills := eq "fill" (default "" .model) -}}
{{- $fetchesFirst := and $loads $cache.fill (has $cache.type (list "emptyDir" "hostPath")) -}}
{{- $cached := and (or $loads $fills) (ne "" (include "medvl.hasModelCache" $root)) -}}

{{- /* GPUs bring their nodes with them */ -}}
{{- $gpus := ternary (int (default 0 .gpus)) 0 $values.gpu.enabled -}}
{{- $nodes := pick $values.gpu "nodeSelector" "tolerations" "affinity" "runtimeClassName" -}}
{{- $layers := list $values.pods (ternary $nodes dict (gt $gpus 0)) (index $values .stage) -}}
{{- $pod := include "medvl.layers" $layers | fromYaml -}}
{{- $labels := include "medvl.selectorLabels" (dict "root" $root "component" (default .stage .component)) | fromYaml -}}
{{- $devices := dict -}}
{{- if $gpus }}{{ $_ := set $devices $values.gpu.resource $gpus }}{{ end -}}
{{- with .rdma }}{{ if .enabled }}{{ $_ := set $devices .resource (int .count) }}{{ end }}{{ end -}}

{{- /* What the containers have in common, and what each of them adds */ -}}
{{- $env := include "medvl.commonEnv" $root | fromYamlArray -}}
{{- if and $cached (ne $cache.type "image") }}
  {{- $env = append $env (dict "name" "MEDVL_MODEL__CACHE" "value" "/models") }}
{{- end -}}
{{- $fillEnv := concat $env (default list $cache.extraEnv) -}}
{{- $mainEnv := ternary $fillEnv $env $fills -}}
{{- if $loads }}{{ $mainEnv = concat $mainEnv (include "medvl.offlineEnv" . | fromYamlArray) }}{{ end -}}
{{- $container := dict "root" $root "pod" $pod "cached" $cached -}}
{{- $fetch := dict "name" "model-cache" "image" "prep" "args" (list "model" "--config" "/etc/medvl/run.yaml")
  "env" $fillEnv "resources" (include "medvl.fetchResources" $values | fromYaml) -}}
{{- $main := dict "name" (default "medvl" .container) "image" .image "args" .args "loads" $loads
  "env" (concat $mainEnv (default list .env)) "resources" $pod.resources "devices" $devices "rdma" .rdma "port" .port -}}
metadata:
  labels:
    {{- merge $labels (default dict $pod.podLabels) (default dict $values.commonLabels) | toYaml | nindent 4 }}
  {{- with $pod.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  serviceAccountName: {{ include "medvl.serviceAccountName" (dict "root" $root "role" (default "worker" .account)) | quote }}
  automountServiceAccountToken: {{ eq "coordinator" (default "worker" .account) }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int64 $pod.terminationGracePeriodSeconds }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $key := list "priorityClassName" "runtimeClassName" "nodeSelector" "tolerations" "affinity" }}
  {{- with index $pod $key }}
  {{ $key }}: {{ toJson . }}
  {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- if $fetchesFirst }}
  initContainers:
    - {{ include "medvl.container" (merge $fetch $container) | indent 6 | trim }}
  {{- end }}
  containers:
    - {{ include "medvl.container" (merge $main $container) | indent 6 | trim }}
  volumes:
    - name: run
      configMap:
        name: {{ default "" .runConfigMap | quote }}
        items: [{key: run.yaml, path: run.yaml}]
    - name: tmp
      emptyDir: {sizeLimit: {{ $pod.scratchSize | quote }}}
    {{- with $values.storage.caBundle }}
    {{- if .existingConfigMap }}
    - name: ca
      configMap: {name: {{ .existingConfigMap | quote }}, items: [{key: {{ .key | quote }}, path: ca.crt}]}
    {{- else if .existingSecret }}
    - name: ca
      secret: {secretName: {{ .existingSecret | quote }}, items: [{key: {{ .key | quote }}, path: ca.crt}]}
    {{- end }}
    {{- end }}
    {{- if $loads }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $values.gpu.shmSize | quote }}}
    {{- end }}
    {{- if $cached }}
    - name: models
      {{- include "medvl.modelVolume" $root | nindent 6 }}
    {{- end }}
    {{- with $pod.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* One container. Takes root, pod (its settings), name, image, env, resources and more, all from the pod template. */}}
{{- define "medvl.container" -}}
name: {{ .name }}
image: {{ include "medvl.image" . | quote }}
imagePullPolicy: {{ (index .root.Values.images .image).pullPolicy }}
command: [medvl]
{{- with .args }}
args: {{ toJson . }}
{{- end }}
env:
  {{- $env := .env }}
  {{- with (index .root.Values.images .image).digest }}
    {{- $env = append $env (dict "name" "MEDVL_IMAGE_DIGEST" "value" .) }}
  {{- end }}
  {{- include "medvl.lastOfEachName" (concat $env (default list .pod.extraEnv)) | nindent 2 }}
{{- with .pod.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .port }}
ports: [{name: http, containerPort: {{ . }}}]
startupProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 5, failureThreshold: 60}
livenessProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 20, timeoutSeconds: 5, failureThreshold: 6}
readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 5, timeoutSeconds: 5}
{{- end }}
resources:
  {{- $resources := deepCopy (default dict .resources) }}
  {{- with .devices }}{{ $resources = mergeOverwrite $resources (dict "limits" . "requests" .) }}{{ end }}
  {{- toYaml $resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    {{- if (default dict .rdma).enabled }}
    add: [IPC_LOCK]  # RDMA pins memory
    {{- end }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - {name: run, mountPath: /etc/medvl, readOnly: true}
  - {name: tmp, mountPath: /tmp}
  {{- if or .root.Values.storage.caBundle.existingConfigMap .root.Values.storage.caBundle.existingSecret }}
  - {name: ca, mountPath: /etc/medvl-ca, readOnly: true}
  {{- end }}
  {{- if .loads }}
  - {name: shm, mountPath: /dev/shm}
  {{- end }}
  {{- if .cached }}
  - {name: models, mountPath: /models, readOnly: {{ default false .loads }}}
  {{- end }}
  {{- with .pod.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "medvl.modelVolume" -}}
{{- with .Values.modelCache }}
{{- if eq .type "emptyDir" -}}
emptyDir: {sizeLimit: {{ .size | quote }}}
{{- else if eq .type "pvc" -}}
persistentVolumeClaim: {claimName: {{ include "medvl.claimName" $ | quote }}}
{{- else if eq .type "hostPath" -}}
hostPath: {path: {{ .hostPath.path | quote }}, type: Directory}
{{- else -}}
image: {reference: {{ .image.reference | quote }}, pullPolicy: {{ .image.pullPolicy }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Of what fills a cache before a pod starts. The scheduler knows no sizeLimit, so room for an emptyDir is requested. */}}
{{- define "medvl.fetchResources" -}}
{{- $room := dict -}}
{{- if eq .modelCache.type "emptyDir" }}{{ $_ := set $room "ephemeral-storage" .modelCache.size }}{{ end -}}
{{- merge (deepCopy (default dict .model.resources)) (dict "requests" $room) | toYaml }}
{{- end }}

{{/* ---- Environment ---------------------------------------------------------------------------------------------- */}}

{{/* A missing Secret is medvl's own message and exit code 77, not a pod that never starts: so its keys are optional. */}}
{{- define "medvl.commonEnv" -}}
- {name: HOME, value: /tmp}
- {name: TMPDIR, value: /tmp}
- {name: HF_HOME, value: /tmp/hf}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
{{- with .Values.storage }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretKeys.accessKeyId | quote }}, optional: true}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretKeys.secretAccessKey | quote }}, optional: true}}
{{- end }}
{{- end }}
{{- end }}

{{/* For containers that load the model: no pod downloads while its GPUs wait. */}}
{{- define "medvl.offlineEnv" -}}
- {name: HF_HUB_OFFLINE, value: "1"}
- {name: TOKENIZERS_PARALLELISM, value: "false"}
{{- end }}
